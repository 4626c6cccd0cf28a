"""What one training run is: the task, its length and its optimiser; imports no torch.

Counts are in samples, so that a change of batch size or of workers moves no schedule.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config import StrictModel
from pipeline.diffusion.config import BlurConfig, BsrConfig, DiffusionConfig
from pipeline.models.config import (
    AutoregressivePriorConfig,
    ClipConfig,
    DecoderConfig,
    LinearPriorConfig,
    PriorConfig,
    UpsamplerConfig,
)
from pipeline.shards.quotas import quotas
from pipeline.training.execution import LinearPriorExecution, TrainExecution


class ClipTaskConfig(StrictModel):
    """Contrastive training of CLIP on pictures and captions."""

    type: Literal["clip"]
    model: ClipConfig
    loss: Literal["softmax", "explicit_negatives"] = "softmax"
    """Symmetric cross-entropy (Radford et al. 2021), or the form that also asks each wrong pair to
    be improbable by itself: -log p_ii - Σ log(1 - p_ij)."""
    min_crop_share: float = Field(default=1.0, gt=0, le=1, exclude_if=lambda value: value == 1.0)
    """Least share of a picture's area that is shown: a square at a random place, scaled to the
    whole (open_clip: 0.9); 1 shows all of every picture."""


class PriorTaskConfig(StrictModel):
    """Diffusion over image embeddings, given captions."""

    type: Literal["prior"]
    model: PriorConfig
    diffusion: DiffusionConfig
    caption_drop_prob: float = Field(default=0.1, ge=0, le=1)
    """Share of samples trained with the empty caption (paper §2.2: 10 %)."""


class AutoregressivePriorTaskConfig(StrictModel):
    """Codes of image embeddings one after another, given captions."""

    type: Literal["autoregressive_prior"]
    model: AutoregressivePriorConfig
    max_pca_error: float = Field(default=0.01, gt=0, lt=1)
    """Share of the embeddings' variance that the left-out components may hold; it decides how many
    are kept (paper §2.2: less than 1 %)."""
    codes_samples: int = Field(default=200_000, ge=1)
    """Training samples whose embeddings decide the buckets, at most: of whole shards, evenly
    spread."""
    caption_drop_prob: float = Field(default=0.1, ge=0, le=1)
    """Share of samples trained with the empty caption (paper §2.2: 10 %)."""


class LinearPriorTaskConfig(StrictModel):
    """Regression of image embeddings on text embeddings."""

    type: Literal["linear_prior"]
    model: LinearPriorConfig


class DecoderTaskConfig(StrictModel):
    """Diffusion over small pictures, given image embeddings and captions."""

    type: Literal["decoder"]
    model: DecoderConfig
    diffusion: DiffusionConfig
    view_px: int = Field(ge=1)
    """Side of the stored view it reads, pixels; a multiple of ``model.image_px``."""
    z_img_drop_prob: float = Field(default=0.1, ge=0, le=1)
    """Share of samples without image embedding (paper §2.1: 10 %; §5.1 says 5 %)."""
    caption_drop_prob: float = Field(default=0.5, ge=0, le=1)
    """Share of samples trained with the empty caption (paper §2.1: 50 %)."""
    max_loss_weight: float = Field(default=1.0, ge=1)
    """Errors weigh min(1/alpha_bar, this): 1 is L_simple (the paper); larger values come close to
    the loss in v (Salimans & Ho 2022 §4), which learns what is where from far fewer samples."""
    snr_gamma: float | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    """Errors of the clean picture weigh min(SNR, this) (Min-SNR, Hang et al. 2023, who use 5);
    none is L_simple (the paper). With x_start, edges are learned from far fewer samples."""
    vlb_weight: float = Field(default=0.001, ge=0)
    """Weight of the variational bound when the variance is learned (Nichol & Dhariwal 2021)."""

    @model_validator(mode="after")
    def _view_fits(self) -> "DecoderTaskConfig":
        if self.view_px % self.model.image_px:
            raise ValueError(
                f"view_px={self.view_px} is not a multiple of image_px={self.model.image_px}"
            )
        return self

    @model_validator(mode="after")
    def _one_weighting(self) -> "DecoderTaskConfig":
        if self.snr_gamma is not None and self.max_loss_weight > 1:
            raise ValueError(
                f"snr_gamma={self.snr_gamma} and max_loss_weight={self.max_loss_weight} both weigh "
                "the loss; give one"
            )
        return self


class UpsamplerTaskConfig(StrictModel):
    """Diffusion over large pictures, given the degraded small one."""

    type: Literal["upsampler"]
    model: UpsamplerConfig
    diffusion: DiffusionConfig
    view_px: int = Field(ge=1)
    """Side of the stored view it reads, pixels; a multiple of ``model.high_px``."""
    crop_px: int = Field(ge=1)
    """Side of the training crops of the large picture (paper §2.1: a quarter of the side)."""
    degradation: BlurConfig | BsrConfig = Field(discriminator="type")

    @model_validator(mode="after")
    def _crop_fits(self) -> "UpsamplerTaskConfig":
        if self.view_px % self.model.high_px:
            raise ValueError(
                f"view_px={self.view_px} is not a multiple of high_px={self.model.high_px}"
            )
        scale = self.model.high_px // self.model.low_px
        if self.crop_px % scale or self.crop_px > self.model.high_px:
            raise ValueError(
                f"crop_px={self.crop_px} must be a multiple of the scale {scale} "
                f"and at most high_px={self.model.high_px}"
            )
        return self


TaskConfig = Annotated[
    ClipTaskConfig
    | PriorTaskConfig
    | AutoregressivePriorTaskConfig
    | DecoderTaskConfig
    | UpsamplerTaskConfig,
    Field(discriminator="type"),
]


class MixtureSource(StrictModel):
    """One of the keep-lists that a training mixes."""

    profile: str
    """Name of the keep-list."""
    weight: float = Field(gt=0, allow_inf_nan=False)
    """Share of the samples, in proportion to the weights of the other sources."""
    path: str | None = Field(default=None, min_length=1)
    """Output folder of another run, whose data set, embeddings and keep-lists are read; None reads
    this run's own. What the other run holds enters the identity, where it lies does not."""


class WarmStart(StrictModel):
    """Trained weights that a training begins with, in our form: trained here or imported."""

    path: str = Field(min_length=1)
    """A weights file (.safetensors), or the output folder of a run, whose stage of the same name is
    meant. The weights enter the identity, their place does not."""
    taken: dict[str, str] = Field(default={"": ""}, min_length=1)
    """Prefix of names in the file → prefix in the network; names under none are not read. All are
    taken as they are by default."""
    fresh: tuple[str, ...] = ()
    """Prefixes of the network's names that may be missing in the file and then begin fresh."""


class Branch(StrictModel):
    """Another way on from a moment of an earlier training, as around a spike of its loss."""

    of: str = Field(pattern="^[0-9a-f]{12}$")
    """Identity of that training: the name of its folder."""
    from_samples: int = Field(ge=1)
    """Samples seen by the checkpoint from which it goes on."""
    skipped: tuple[tuple[Annotated[int, Field(ge=0)], int], ...] = ()
    """Ranges of the order of samples, first and one after the last, that are left out."""


class TrainConfig(StrictModel):
    """Everything one training run needs beside its inputs."""

    task: TaskConfig
    samples: int = Field(ge=1)
    """Length of the training, samples seen."""
    global_batch_size: int = Field(ge=1)
    """Samples per optimiser step, over all workers."""
    micro_batch_size: int = Field(ge=1)
    """Samples of one micro-batch; divides ``global_batch_size``."""
    num_lanes: int = Field(ge=1)
    """Fixed reading lanes of the data (contract 16); a multiple of the micro-batches per step."""
    seed: int = Field(ge=0)
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    warmup_samples: int = Field(default=0, ge=0)
    """Samples over which the learning rate rises linearly from 0."""
    decay: Literal["cosine", "none"]
    """Course of the learning rate after the warm-up, down to 0 at ``samples``."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled; not applied to gains and biases."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    grad_clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient; none means no clipping."""
    ema_decay: float = Field(ge=0, lt=1)
    """Decay of the weights' moving average per step, after its own warm-up."""
    ema_start_samples: int = Field(default=0, ge=0, exclude_if=lambda value: value == 0)
    """The average begins here, samples seen; before, it is the weights themselves and costs
    nothing."""
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", exclude_if=lambda value: value == "float32"
    )
    """Of products and convolutions; parameters, losses and the optimiser stay float32."""
    profile: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name of the keep-list that selects the samples: ``clip`` or ``generative``. CLIP's training
    comes before there are any, and reads all samples of the training split but removed ones."""
    mixture: tuple[MixtureSource, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Instead of ``profile``: several keep-lists, of this run or of others, interleaved in the
    proportion of their weights by a pattern that repeats; its period divides ``num_lanes``."""
    warm_start: WarmStart | None = Field(default=None, exclude_if=lambda value: value is None)
    """Weights to begin with; None begins fresh."""
    branch: Branch | None = Field(default=None, exclude_if=lambda value: value is None)
    """The earlier training of this section that is left here; None goes the whole way."""
    frozen: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Prefixes of parameters that stay as they begin."""
    learning_rate_factors: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, exclude_if=lambda value: not value
    )
    """Prefix of parameters → what multiplies their learning rate; the longest prefix counts."""
    sam_rho: float = Field(default=0.0, ge=0)
    """Radius of sharpness-aware minimisation; 0 is none, the paper's CLIP took 0.1 (App. C). Each
    replica, which is one micro-batch, takes its gradient where its own loss is worst nearby."""
    execution: TrainExecution

    @model_validator(mode="after")
    def _batches_divide(self) -> "TrainConfig":
        if self.global_batch_size % self.micro_batch_size:
            low = self.global_batch_size // self.micro_batch_size * self.micro_batch_size
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is not a multiple of "
                f"micro_batch_size={self.micro_batch_size}; use {low or self.micro_batch_size} "
                f"or {low + self.micro_batch_size}"
            )
        micro_batches = self.global_batch_size // self.micro_batch_size
        if self.num_lanes % micro_batches:
            raise ValueError(
                f"num_lanes={self.num_lanes} is not a multiple of the {micro_batches} "
                "micro-batches of a step"
            )
        return self

    @model_validator(mode="after")
    def _decoders_have_lanes(self) -> "TrainConfig":
        micro_batches = self.global_batch_size // self.micro_batch_size
        owned = micro_batches // max(1, self.execution.num_workers)
        lanes = owned * self.num_lanes // micro_batches
        if owned and self.execution.decoders > lanes:
            raise ValueError(
                f"execution.decoders={self.execution.decoders} is more than the {lanes} lanes of a "
                "worker, and each decoder reads lanes of its own; lower it, or raise num_lanes"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_read(self) -> "TrainConfig":
        if (self.profile is None) == (not self.mixture):
            raise ValueError("a training reads one keep-list (profile) or several (mixture)")
        listed = [(source.path, source.profile) for source in self.mixture]
        if len(set(listed)) < len(listed):
            raise ValueError("mixture names a keep-list twice; list it once, with one weight")
        period = sum(self.quotas())
        if self.num_lanes % period:
            written = " : ".join(map(str, self.quotas()))
            raise ValueError(
                f"num_lanes={self.num_lanes} is not a multiple of {period}, the period of a "
                f"mixture of {written}; use such a multiple, or rounder weights"
            )
        return self

    @property
    def skipped(self) -> tuple[tuple[int, int], ...]:
        """Ranges of the order of samples that are left out."""
        return () if self.branch is None else self.branch.skipped

    def sources(self) -> tuple[MixtureSource, ...]:
        """The keep-lists that are read; a single one is a mixture of one."""
        if self.profile is None:
            return self.mixture
        return (MixtureSource(profile=self.profile, weight=1.0),)

    def quotas(self) -> tuple[int, ...]:
        """Samples of each source in a period of the mixture."""
        return quotas([source.weight for source in self.sources()])

    @model_validator(mode="after")
    def _branch_leaves_between_steps(self) -> "TrainConfig":
        if self.branch is None:
            return self
        start, batch = self.branch.from_samples, self.global_batch_size
        if start % batch or start >= self.samples:
            raise ValueError(
                f"branch.from_samples={start} must be a multiple of global_batch_size={batch} "
                f"below samples={self.samples}"
            )
        end = start
        for first, after in self.branch.skipped:
            if first < end or after <= first or first % self.num_lanes or after % self.num_lanes:
                raise ValueError(
                    f"branch.skipped={[first, after]} must begin at {end} or later and end after "
                    f"it, both at multiples of num_lanes={self.num_lanes}, so that lanes stay; "
                    "ranges ascend"
                )
            end = after
        return self

    @model_validator(mode="after")
    def _replicas_are_workers(self) -> "TrainConfig":
        """SAM needs whole replicas; of a contrastive loss, which has no parts, a worker is one."""
        if self.sam_rho and self.execution.strategy != "ddp":
            raise ValueError(
                f"sam_rho={self.sam_rho} perturbs whole replicas, "
                f"execution.strategy={self.execution.strategy} cuts them; use ddp"
            )
        replicas = self.global_batch_size // self.micro_batch_size
        is_clip = isinstance(self.task, ClipTaskConfig)
        workers = {max(1, self.execution.num_workers), self.execution.min_workers} - {None}
        if self.sam_rho and is_clip and workers != {replicas}:
            raise ValueError(
                f"sam_rho={self.sam_rho} perturbs each of the {replicas} micro-batches by itself, "
                f"execution.num_workers={self.execution.num_workers} would join some; train CLIP "
                f"with {replicas} workers, or change micro_batch_size"
            )
        return self


class LinearPriorTraining(StrictModel):
    """A prior in closed form: one pass over the embeddings, no steps."""

    task: LinearPriorTaskConfig
    profile: str
    """Name of the keep-list that selects the samples."""
    execution: LinearPriorExecution = LinearPriorExecution()
