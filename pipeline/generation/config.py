"""What to generate and how to sample it; imports nothing heavy."""

import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from pipeline.config import StrictModel
from pipeline.selection.config import HeadConfig


class InlinePrompts(StrictModel):
    """Prompts written in the run file."""

    type: Literal["inline"] = "inline"
    texts: tuple[str, ...] = Field(min_length=1)
    """The prompts, used in turn until ``num_pictures`` are made."""


class PromptFile(StrictModel):
    """Prompts from a UTF-8 text file."""

    type: Literal["file"]
    path: str
    """One prompt per line; empty lines are left out."""


class PartiPrompts(StrictModel):
    """PartiPrompts (Yu et al. 2022): a table with the columns Prompt, Category, Challenge."""

    type: Literal["parti"]
    path: str
    """The published TSV file."""
    categories: tuple[str, ...] = ()
    """Such as ``Animals``; none for all."""
    challenges: tuple[str, ...] = ()
    """Such as ``Quantity``; none for all."""


class PromptTable(StrictModel):
    """Prompts from a Parquet file, as many as there are rows."""

    type: Literal["parquet"]
    path: str
    column: str = "prompt"
    """Name of the column of texts."""


class HeldOutPrompts(StrictModel):
    """Prompts of the small web's held-out combinations, with their truth; given by the job."""

    type: Literal["held_out"]


FilePrompts = PromptFile | PromptTable | PartiPrompts
"""Prompts that lie in a file, whose content belongs to a result."""
Prompts = Annotated[
    InlinePrompts | FilePrompts | HeldOutPrompts,
    Field(discriminator="type"),
]


class PriorSampling(StrictModel):
    """How ``z_img`` is drawn from a caption."""

    num_steps: int = Field(default=25, ge=1)
    """Denoising steps of a diffusion prior, strided over the schedule (paper: 64)."""
    num_candidates: int = Field(default=2, ge=1, le=64)
    """Draws per picture (paper: 2)."""
    kept: Literal["closest", "mean"] = Field(
        default="closest", exclude_if=lambda value: value == "closest"
    )
    """Of several draws the one with the highest z_img · z_txt (paper), or their mean: an estimate
    of the expected embedding, as a regression gives one, and no draw from the distribution."""
    guidance_scale: float = Field(default=1.0, ge=0.0, le=50.0)
    """Classifier-free guidance; 1 = none, as in the paper's figures."""
    temperature: float = Field(default=1.0, ge=0.0, le=10.0)
    """Of an autoregressive prior's codes; 0 takes the likeliest."""
    source: Literal["prior", "z_txt"] = "prior"
    """Where the decoder's embedding comes from: the prior, or the caption's own embedding, which
    shows what the prior is worth (paper §5.1)."""


class DecoderSampling(StrictModel):
    """How the first, smallest picture is drawn from ``z_img`` and the caption."""

    num_steps: int = Field(default=8, ge=1)
    """Denoising steps, strided over the schedule (paper: 250 by DDIM)."""
    guidance_scale: float = Field(default=1.25, ge=0.0, le=50.0)
    """Classifier-free guidance; 1 = none, 1.25 gave the paper's best Fréchet distance."""
    clip_guidance_scale: float = Field(
        default=0.0, ge=0.0, le=1000.0, exclude_if=lambda value: value == 0.0
    )
    """Guidance by the gradient of CLIP's logit of picture and caption, in the place of, or beside,
    classifier-free guidance; 0 = none, 1 = Bayes' rule with what the run's CLIP says."""
    sampler: Literal["ddim", "ddpm", "dpm_solver"] = "dpm_solver"
    """DPM-Solver++(2M) for few steps, deterministic DDIM (``eta`` 0), or ancestral DDPM."""
    eta: float = Field(default=0.0, ge=0.0, le=1.0)
    """DDIM's share of fresh noise; 0 is a fixed map from noise to picture."""
    dynamic_threshold: float | None = Field(default=None, gt=0.5, le=1.0)
    """Share of the pixels that keep their range; the others are clipped and all rescaled (Saharia
    et al. 2022 use 0.995 against too strong guidance). None clips to the pictures' range."""

    @model_validator(mode="after")
    def _eta_belongs_to_ddim(self) -> "DecoderSampling":
        if self.sampler != "ddim" and self.eta != 0.0:
            raise ValueError(
                f"eta={self.eta} belongs to sampler ddim; leave it out for {self.sampler}"
            )
        return self


class UpsamplerSampling(StrictModel):
    """How one upsampler adds detail (DDIM, no guidance, no text)."""

    num_steps: int = Field(default=3, ge=1)
    """Denoising steps, strided over the schedule (paper: 27, and 15 for the second upsampler)."""
    tile_px: int | None = Field(default=None, ge=1)
    """Side of the tiles in which the network sees the large picture; memory then depends on the
    tile alone. None shows it the whole. At least the side of its training crops: its norms average
    over what they see."""
    tile_overlap_px: int = Field(default=32, ge=4)
    """Pixels that neighbouring tiles share and fade over."""
    back_project: bool = False
    """Afterwards shift the large picture until it shrinks back to the small one. The paper does
    not; a network trained briefly on crops needs it to keep the colours of whole pictures."""

    @model_validator(mode="after")
    def _tiles_reach_beyond_their_overlap(self) -> "UpsamplerSampling":
        if self.tile_px is not None and self.tile_px < 2 * self.tile_overlap_px:
            raise ValueError(
                f"tile_px={self.tile_px} is less than twice tile_overlap_px="
                f"{self.tile_overlap_px}; use larger tiles or a smaller overlap"
            )
        return self


class Sampling(StrictModel):
    """Sampling of every model of the stack.

    Guidance and candidates are the paper's by default. Steps are few, for `tests.benchmarks` have
    pictures of so few steps beside those of many; ``jobs/configs/paper/run.yaml`` has the paper's.
    """

    prior: PriorSampling = PriorSampling()
    decoder: DecoderSampling = DecoderSampling()
    upsamplers: tuple[UpsamplerSampling, ...] = (UpsamplerSampling(), UpsamplerSampling())
    """One entry per upsampler that is used, smallest first; fewer entries give smaller pictures."""


class Ablations(StrictModel):
    """Pictures at the decoder's resolution that show what each part contributes."""

    num_pictures: int = Field(ge=0)
    """Pictures per ablation (``plan.py`` lists them); 0 leaves ablations out."""


class SafetyHead(HeadConfig):
    """A head on CLIP's embedding of a generated picture (``selection/heads.py``)."""

    at_most: float
    """Pictures with a higher number are withheld."""


class SafetyClassifier(StrictModel):
    """A classifier of your own (``generation/safety.py``)."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Of the entry point in the group ``unclip_pipeline.safety_classifiers``."""
    version: str
    """Of the installed package that brings it."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Handed to it as they are."""


class SafetyConfig(StrictModel):
    """Which prompts are not drawn and which pictures not shown."""

    words: tuple[str, ...] = ()
    """Words, or several in a row, that no prompt may hold; case does not matter."""
    patterns: tuple[str, ...] = ()
    """Regular expressions that may occur in no prompt; case does not matter."""
    heads: dict[str, SafetyHead] = Field(default_factory=dict)
    """Heads on pictures, by name."""
    classifiers: tuple[SafetyClassifier, ...] = ()

    @model_validator(mode="after")
    def _rules_can_be_read(self) -> "SafetyConfig":
        if not (self.words or self.patterns or self.heads or self.classifiers):
            raise ValueError("safety has no rule; add words, patterns, heads or classifiers")
        if any(not word.strip() for word in self.words):
            raise ValueError("safety.words holds an empty word, which would be in every prompt")
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"safety.patterns: {pattern!r} is none: {error}") from error
        return self


class GenerateExecution(StrictModel):
    """How the work is spread; no field here changes what comes out."""

    num_actors: int = Field(default=1, ge=1)
    """Processes that hold the models; each takes one CPU (and ``gpus_per_actor``)."""
    gpus_per_actor: float = Field(default=0.0, ge=0.0)
    """GPUs of each process."""
    threads: int = Field(default=1, ge=1)
    """Torch threads of each process."""


class GenerateConfig(Sampling):
    """Everything one generation needs."""

    prompts: Prompts
    num_pictures: int = Field(ge=1)
    """Final pictures; prompts are repeated in turn where there are fewer."""
    seed: int = Field(ge=0)
    """Every draw is a function of this seed and the picture's number."""
    ablations: Ablations
    pictures_per_shard: int = Field(default=64, ge=1)
    """Pictures per partition, which is the unit of resuming and one shard of the output."""
    batch_size: int = Field(default=32, ge=1)
    """Pictures sampled together. A part of the result and not of its execution, because float
    rounding may depend on the shape of a batch; what is seen does not."""
    safety: SafetyConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Off by default."""
    execution: GenerateExecution = GenerateExecution()

    @property
    def sampling(self) -> Sampling:
        """The part that says how one picture is sampled."""
        return Sampling(prior=self.prior, decoder=self.decoder, upsamplers=self.upsamplers)
