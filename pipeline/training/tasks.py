"""What is trained: one task per kind of model, the only place where networks meet diffusion.

A task turns a sample into arrays (``prepare``: all random draws, from a generator seeded by the
sample's position) and a batch into one loss per sample (``loss``: no draw at all), so that neither
the number of workers nor the number of micro-batches changes what is learned.

Dimension names: ``batch``; ``channel height width``; ``token``; ``dim`` (joint embedding).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pipeline.diffusion import gaussian, losses
from pipeline.diffusion.degradation import degrade
from pipeline.diffusion.sampling import Process, ddim_sample, ddpm_sample, no_threshold
from pipeline.generation.upsampling import noise_on
from pipeline.models.clip import ClipModel
from pipeline.models.decoder import Decoder
from pipeline.models.pictures import to_bytes, to_unit
from pipeline.models.presets import (
    build_clip,
    build_decoder,
    build_prior,
    build_upsampler,
)
from pipeline.models.prior import DiffusionPrior
from pipeline.shards.loader import Sample
from pipeline.shards.views import shrunk
from pipeline.training.autoregressive import AutoregressivePriorTask
from pipeline.training.config import (
    AutoregressivePriorTaskConfig,
    ClipTaskConfig,
    DecoderTaskConfig,
    PriorTaskConfig,
    TaskConfig,
    UpsamplerTaskConfig,
)
from pipeline.training.contrastive import contrastive_loss
from pipeline.training.guided import guided_pictures
from pipeline.training.health import DRAW_STEPS, NUM_DRAWN, draw_cosines, retrieval
from pipeline.training.inputs import (
    FrozenText,
    TaskInputs,
    decoder_text,
    prior_text,
    statistics,
)
from pipeline.training.preparation import (
    caption_embedding,
    channels_first,
    crop,
    diffusion_draws,
    drawn_caption,
    embedding,
    picture,
    random_square,
    text_arrays,
)

Arrays = dict[str, np.ndarray]
Batch = dict[str, Tensor]
Losses = tuple[Float[Tensor, " batch"], dict[str, Float[Tensor, ""]]]
PREVIEW_PICTURES = 16
PREVIEW_STEPS = 20


@runtime_checkable
class Task(Protocol):
    """One trainable stage, as the loop sees it."""

    @property
    def view_px(self) -> int | None:
        """Side of the stored view that is read, or None without pictures."""
        ...

    @property
    def image_px(self) -> int | None:
        """Side to which the view is shrunk where it is read; None: not at all, or no pictures."""
        ...

    @property
    def needs_embeddings(self) -> bool:
        """Whether samples bring z_img and text tokens."""
        ...

    @property
    def whole_batch(self) -> bool:
        """Whether the loss looks across samples, so that a worker's rows must come at once."""
        ...

    def build(self) -> nn.Module:
        """A fresh model, initialised from torch's global generator."""
        ...

    def prepare(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Arrays of one sample; every random draw happens here."""
        ...

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Float[Tensor, " batch"], dict[str, Float[Tensor, ""]]]:
        """Loss per sample, and metrics averaged over the batch."""
        ...

    def pictures(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> UInt8[Tensor, " n 3 height width"] | None:
        """A few pictures the model makes of the batch, or None where it makes none."""
        ...


@dataclass
class ClipTask:
    """Contrastive training on pictures and captions."""

    config: ClipTaskConfig
    needs_embeddings: bool = field(default=False, init=False)
    whole_batch: bool = field(default=True, init=False)
    num_judged: int | None = field(default=None, init=False)

    @property
    def view_px(self) -> int | None:
        """Side of the pictures, pixels."""
        return self.config.model.vision.image_px

    image_px = view_px

    def build(self) -> nn.Module:
        """A fresh CLIP."""
        return build_clip(self.config.model)

    def prepare(self, sample: Sample, rng: np.random.Generator) -> Arrays:
        """One picture and one of its captions."""
        tokens = drawn_caption(sample, rng, drop_prob=0.0).tokens
        image = picture(sample)
        if self.config.min_crop_share < 1:
            image = random_square(image, rng, self.config.min_crop_share)
        return {"image": channels_first(image), "text_tokens": tokens}

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        """The contrastive loss over the global batch."""
        clip = cast(ClipModel, model)
        z_img = clip.encode_image(to_unit(batch["image"]))
        z_txt, _ = clip.encode_text(batch["text_tokens"])
        scale = clip.temperature()
        per_row, hits = contrastive_loss(z_img, z_txt, scale, kind=self.config.loss)
        return per_row, {"batch_accuracy": hits.mean(), "logit_scale": scale.detach()}

    def made(self, model: nn.Module, batch: Batch, seeds: Sequence[int]) -> Batch:
        """Both embeddings, and the captions."""
        clip, tokens = cast(ClipModel, model), batch["text_tokens"]
        z_img, (z_txt, _) = clip.encode_image(to_unit(batch["image"])), clip.encode_text(tokens)
        return {"z_img": z_img, "z_txt": z_txt, "text_tokens": tokens}

    def judge(self, made: Batch) -> dict[str, float]:
        """How well captions find their pictures."""
        return retrieval(**made)

    def pictures(self, model: nn.Module, batch: Batch) -> UInt8[Tensor, " n 3 height width"] | None:
        """CLIP makes no pictures."""
        return None


@dataclass
class PriorTask:
    """Diffusion over image embeddings (paper §2.2: predicts z_img itself)."""

    config: PriorTaskConfig
    inputs: TaskInputs
    view_px: int | None = field(default=None, init=False)
    image_px: int | None = field(default=None, init=False)
    needs_embeddings: bool = field(default=True, init=False)
    whole_batch: bool = field(default=False, init=False)
    num_judged: int | None = field(default=NUM_DRAWN, init=False)

    def __post_init__(self) -> None:
        """Prepare what every loss needs."""
        self._process = Process.of(self.config.diffusion)
        self._text = FrozenText(self.inputs)

    def build(self) -> nn.Module:
        """A fresh prior that holds the whitening."""
        prior = build_prior(self.config.model)
        prior.set_statistics(*statistics(self.inputs))
        return prior

    def prepare(self, sample: Sample, rng: np.random.Generator) -> Arrays:
        """One embedding, one of its captions, step, noise and drop."""
        model = self.config.model
        caption = drawn_caption(sample, rng, self.config.caption_drop_prob)
        arrays = {"z_img": embedding(sample), **text_arrays(caption, model.text)}
        return arrays | diffusion_draws((model.clip.embed_dim,), self.config.diffusion, rng)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        """Squared error of the predicted embedding in model space."""
        prior = cast(DiffusionPrior, model)
        z_start = prior.whiten(batch["z_img"])
        process = self._process = self._process.to(z_start)
        z_t = gaussian.q_sample(z_start, batch["t"], batch["eps"], process.alpha_bar)
        output = prior(z_t, batch["t"], *prior_text(prior.text_encoder, self._text, batch))
        signal = process.alpha_bar[batch["t"]]
        target = gaussian.target(process.prediction, z_start, batch["eps"], signal)
        z_hat = gaussian.to_x_start(process.prediction, output.detach(), z_t, signal)
        cosine = F.cosine_similarity(prior.unwhiten(z_hat), batch["z_img"])
        per_sample = losses.simple_loss(output, target)
        parts = losses.loss_by_step(per_sample, batch["t"], self.config.diffusion.num_steps)
        return per_sample, {"cosine_to_z_img": cosine.mean(), **parts}

    def made(self, model: nn.Module, batch: Batch, seeds: Sequence[int]) -> Batch:
        """A draw for each caption by ancestral sampling in few steps, without guidance."""
        prior, z_img = cast(DiffusionPrior, model), batch["z_img"]
        text = prior_text(prior.text_encoder, self._text, batch)
        process = self._process.to(z_img)
        drawn = ddpm_sample(
            lambda z_t, t: prior(z_t, t, *text),
            process,
            noise_on(z_img.device, seeds, z_img.shape[1:]),
            min(DRAW_STEPS, len(process.alpha_bar)),
            threshold=no_threshold,
        )
        return {"drawn": prior.unwhiten(drawn), "z_img": z_img, "z_txt": text[0]}

    def judge(self, made: Batch) -> dict[str, float]:
        """How close draws come to what they should be close to."""
        return draw_cosines(**made)

    def pictures(self, model: nn.Module, batch: Batch) -> UInt8[Tensor, " n 3 height width"] | None:
        """A prior makes no pictures."""
        return None


@dataclass
class DecoderTask:
    """Diffusion over small pictures, given z_img and captions (paper §2.1)."""

    config: DecoderTaskConfig
    inputs: TaskInputs
    needs_embeddings: bool = field(default=True, init=False)
    whole_batch: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Prepare what every loss needs."""
        self._process = Process.of(self.config.diffusion)
        self._text = FrozenText(self.inputs)

    @property
    def view_px(self) -> int | None:
        """Side of the stored view it reads, pixels."""
        return self.config.view_px

    @property
    def image_px(self) -> int | None:
        """Side of the pictures that it makes, pixels."""
        return self.config.model.image_px

    def build(self) -> nn.Module:
        """A fresh decoder that holds the whitening."""
        decoder = build_decoder(self.config.model)
        decoder.set_statistics(*statistics(self.inputs))
        return decoder

    def prepare(self, sample: Sample, rng: np.random.Generator) -> Arrays:
        """One small picture, its embedding and one caption, step, noise and both drops."""
        model = self.config.model
        side = model.image_px
        caption = drawn_caption(sample, rng, self.config.caption_drop_prob)
        kept = rng.random() >= self.config.z_img_drop_prob
        of_caption = model.embedding == "z_txt"
        arrays = {
            "image": channels_first(picture(sample)),
            "z_img": caption_embedding(sample, caption.index) if of_caption else embedding(sample),
            "has_z_img": np.array(kept and model.embedding != "none"),
            **text_arrays(caption, model.text),
        }
        return arrays | diffusion_draws((3, side, side), self.config.diffusion, rng)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        """Squared error, and the variational bound of the variance where it is learned."""
        x_start = to_unit(batch["image"])
        process = self._process = self._process.to(x_start)
        t, eps = batch["t"], batch["eps"]
        x_t = gaussian.q_sample(x_start, t, eps, process.alpha_bar)
        text = decoder_text(cast(Decoder, model).text_encoder, self._text, batch)
        output = model(x_t, t, batch["z_img"], batch["has_z_img"], *text)
        signal = process.alpha_bar[t]
        prediction, variance = output[:, :3], output[:, 3:]
        target = gaussian.target(process.prediction, x_start, eps, signal)
        per_sample = losses.simple_loss(prediction, target)
        metrics = {"mse": per_sample.detach().mean()}
        metrics |= losses.loss_by_step(per_sample, t, self.config.diffusion.num_steps)
        per_sample = self._weight(signal) * per_sample
        if self.config.model.learned_variance:
            before = gaussian.signal_at(process.alpha_bar, t - 1)
            mean = gaussian.to_x_start(process.prediction, prediction.detach(), x_t, signal)
            noise = gaussian.to_eps(mean, x_t, signal)
            bits = losses.variational_term(x_start, x_t, noise, variance, signal, before)
            # T/1000 x the sum over steps, estimated from one step: ADM's rescaled hybrid loss.
            weight = self.config.vlb_weight * self.config.diffusion.num_steps
            per_sample = per_sample + weight * bits
            metrics["vlb_bits"] = bits.detach().mean()
        return per_sample, metrics

    def _weight(self, signal: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        gamma = self.config.snr_gamma
        if gamma is not None:
            return losses.min_snr_weight(self._process.prediction, signal, gamma)
        return losses.velocity_weight(signal, self.config.max_loss_weight)

    @torch.no_grad()
    def pictures(self, model: nn.Module, batch: Batch) -> UInt8[Tensor, " n 3 height width"] | None:
        """Pictures of the batch's embeddings and captions, from the batch's own noise."""
        few = {name: value[:PREVIEW_PICTURES] for name, value in batch.items()}
        text = decoder_text(cast(Decoder, model).text_encoder, self._text, few)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return model(x_t, t, few["z_img"], few["has_z_img"], *text)[:, :3]

        process = self._process.to(few["eps"])
        return to_bytes(ddim_sample(denoise, process, lambda _: few["eps"], PREVIEW_STEPS))

    def guided_pictures(
        self, model: nn.Module, batch: Batch
    ) -> UInt8[Tensor, " scale n 3 height width"]:
        """The batch's samples at several guidance scales."""
        return guided_pictures(cast(Decoder, model), self._text, self._process, batch)


@dataclass
class UpsamplerTask:
    """Diffusion over crops of large pictures, given the degraded small one (paper §2.1)."""

    config: UpsamplerTaskConfig
    needs_embeddings: bool = field(default=False, init=False)
    whole_batch: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Prepare what every loss needs."""
        self._process = Process.of(self.config.diffusion)

    @property
    def view_px(self) -> int | None:
        """Side of the stored view it reads, pixels."""
        return self.config.view_px

    @property
    def image_px(self) -> int | None:
        """Side of the pictures that it makes, pixels."""
        return self.config.model.high_px

    def build(self) -> nn.Module:
        """A fresh upsampler."""
        return build_upsampler(self.config.model)

    def prepare(self, sample: Sample, rng: np.random.Generator) -> Arrays:
        """The same crop of the large and of the degraded small picture, step and noise."""
        model, side = self.config.model, self.config.crop_px
        scale = model.high_px // model.low_px
        high = picture(sample)
        low = degrade(shrunk(high, model.low_px), self.config.degradation, rng)
        top, left = (int(x) for x in rng.integers((model.high_px - side) // scale + 1, size=2))
        size = side // scale
        arrays = {
            "low_res": channels_first(crop(low, top, left, size)),
            "image": channels_first(crop(high, top * scale, left * scale, side)),
        }
        return arrays | diffusion_draws((3, side, side), self.config.diffusion, rng)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        """Squared error."""
        x_start, t = to_unit(batch["image"]), batch["t"]
        process = self._process = self._process.to(x_start)
        x_t = gaussian.q_sample(x_start, t, batch["eps"], process.alpha_bar)
        output = model(x_t, t, to_unit(batch["low_res"]))
        signal = process.alpha_bar[t]
        target = gaussian.target(process.prediction, x_start, batch["eps"], signal)
        per_sample = losses.simple_loss(output, target)
        parts = losses.loss_by_step(per_sample, t, self.config.diffusion.num_steps)
        return per_sample, {"mse": per_sample.detach().mean(), **parts}

    @torch.no_grad()
    def pictures(self, model: nn.Module, batch: Batch) -> UInt8[Tensor, " n 3 height width"] | None:
        """Upsampled crops, from the batch's own noise."""
        few = {name: value[:PREVIEW_PICTURES] for name, value in batch.items()}
        low_res = to_unit(few["low_res"])
        process = self._process.to(few["eps"])
        made = ddim_sample(
            lambda x_t, t: model(x_t, t, low_res), process, lambda _: few["eps"], PREVIEW_STEPS
        )
        return to_bytes(made)


def undropped(task: Task) -> Task:
    """The same task, whose samples keep every condition; all other draws stay as they are."""
    if isinstance(task, PriorTask | AutoregressivePriorTask):
        return replace(task, config=task.config.model_copy(update={"caption_drop_prob": 0.0}))
    if isinstance(task, DecoderTask):
        drops = {"caption_drop_prob": 0.0, "z_img_drop_prob": 0.0}
        return replace(task, config=task.config.model_copy(update=drops))
    return task


def build_task(config: TaskConfig, inputs: TaskInputs) -> Task:
    """The task that a configuration describes, on the results it stands on."""
    if isinstance(config, ClipTaskConfig):
        return ClipTask(config)
    if isinstance(config, PriorTaskConfig):
        return PriorTask(config, inputs)
    if isinstance(config, AutoregressivePriorTaskConfig):
        return AutoregressivePriorTask(config, inputs)
    if isinstance(config, DecoderTaskConfig):
        return DecoderTask(config, inputs)
    return UpsamplerTask(config)
