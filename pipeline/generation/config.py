"""What to generate and how to sample it; imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config import StrictModel


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


class HeldOutPrompts(StrictModel):
    """Prompts of the small web's held-out combinations, with their truth; given by the job."""

    type: Literal["held_out"]


Prompts = Annotated[InlinePrompts | PromptFile | HeldOutPrompts, Field(discriminator="type")]


class PriorSampling(StrictModel):
    """How ``z_img`` is drawn from a caption."""

    num_steps: int = Field(default=64, ge=1)
    """Denoising steps, strided over the schedule."""
    num_candidates: int = Field(default=2, ge=1, le=64)
    """Draws per picture, of which the one with the highest z_img · z_txt is kept (paper: 2)."""
    guidance_scale: float = Field(default=1.0, ge=0.0, le=50.0)
    """Classifier-free guidance; 1 = none, as in the paper's figures."""


class DecoderSampling(StrictModel):
    """How the first, smallest picture is drawn from ``z_img`` and the caption."""

    num_steps: int = Field(default=50, ge=1)
    """Denoising steps, strided over the schedule."""
    guidance_scale: float = Field(default=1.25, ge=0.0, le=50.0)
    """Classifier-free guidance; 1 = none, 1.25 gave the paper's best Fréchet distance."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """Deterministic DDIM (``eta`` 0) or ancestral DDPM."""
    eta: float = Field(default=0.0, ge=0.0, le=1.0)
    """DDIM's share of fresh noise; 0 is a fixed map from noise to picture."""

    @model_validator(mode="after")
    def _eta_belongs_to_ddim(self) -> "DecoderSampling":
        if self.sampler == "ddpm" and self.eta != 0.0:
            raise ValueError(f"eta={self.eta} belongs to sampler ddim; leave it out for ddpm")
        return self


class UpsamplerSampling(StrictModel):
    """How one upsampler adds detail (DDIM, no guidance, no text)."""

    num_steps: int = Field(default=27, ge=1)
    """Denoising steps, strided over the schedule."""
    back_project: bool = False
    """Afterwards shift the large picture until it shrinks back to the small one. The paper does
    not; a network trained briefly on crops needs it to keep the colours of whole pictures."""


class Sampling(StrictModel):
    """Sampling of every model of the stack; the defaults are the paper's where it states them."""

    prior: PriorSampling = PriorSampling()
    decoder: DecoderSampling = DecoderSampling()
    upsamplers: tuple[UpsamplerSampling, ...] = (
        UpsamplerSampling(),
        UpsamplerSampling(num_steps=15),
    )
    """One entry per upsampler that is used, smallest first; fewer entries give smaller pictures."""


class Ablations(StrictModel):
    """Pictures at the decoder's resolution that show what each part contributes."""

    num_pictures: int = Field(ge=0)
    """Pictures per ablation (``plan.py`` lists them); 0 leaves ablations out."""


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
    execution: GenerateExecution = GenerateExecution()

    @property
    def sampling(self) -> Sampling:
        """The part that says how one picture is sampled."""
        return Sampling(prior=self.prior, decoder=self.decoder, upsamplers=self.upsamplers)
