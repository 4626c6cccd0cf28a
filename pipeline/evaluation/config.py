"""What to measure and which numbers must hold; imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import StrictModel
from pipeline.generation.config import DecoderSampling, Sampling, UpsamplerSampling


class UpsamplingCheck(StrictModel):
    """PSNR of upsamplers against bicubic on held-out pictures."""

    num_pictures: int = Field(default=64, ge=0)
    """Held-out pictures per upsampler; 0 leaves the check out."""
    num_upsamplers: int = Field(default=1, ge=1)
    """How many upsamplers are checked, smallest first."""
    batch_size: int = Field(default=32, ge=1)
    """Pictures upsampled together; float rounding may depend on it."""


class EvaluateExecution(StrictModel):
    """How the work is spread."""

    threads: int = Field(default=1, ge=1)
    """Torch threads of a task."""


class HeldOutCheck(StrictModel):
    """What every protocol of ``jobs.evaluate`` states: which samples it reads, and their draws."""

    seed: int = Field(default=0, ge=0)
    """Seeds bootstrap resampling and every draw."""
    profile: str = "generative"
    """Keep-list whose held-out samples are read."""
    num_samples: int = Field(default=256, ge=2)
    """Held-out samples, at most: of the test split, then of validation."""
    batch_size: int = Field(default=32, ge=1)
    """Samples computed together; float rounding may depend on it."""
    execution: EvaluateExecution = EvaluateExecution()


class PriorsCheck(HeldOutCheck):
    """Priors side by side, by what they draw and by their loss with other conditions."""

    num_candidates: tuple[int, ...] = Field(default=(1, 2), min_length=1)
    """Draws per caption, of which the one closest to z_txt is kept; one row of the table each."""
    num_averaged: int = Field(default=32, ge=2)
    """Draws per caption whose mean is one more row."""
    num_steps: int = Field(default=20, ge=1)
    """Denoising steps of a diffusion prior."""
    temperatures: tuple[float, ...] = Field(default=(1.0, 0.7), min_length=1)
    """Of an autoregressive prior; one row of the table each."""
    num_draws: int = Field(default=4, ge=1)
    """Diffusion steps and noises at which each sample's loss is taken."""
    num_pictures: int = Field(default=128, ge=0)
    """Pictures that the run's decoder makes of each prior's draws; 0 makes none."""
    decoder: DecoderSampling = DecoderSampling(num_steps=20, guidance_scale=1.0, sampler="ddim")
    """How they are sampled; captions are hidden from the decoder."""


class DecoderCheck(HeldOutCheck):
    """A decoder's loss with other conditions, and pictures inverted and drawn again."""

    num_draws: int = Field(default=4, ge=1)
    """Diffusion steps and noises at which each sample's loss is taken."""
    inversion_steps: tuple[int, ...] = Field(default=(5, 10, 20, 50, 100), min_length=1)
    """Network evaluations of an inversion, and as many of the way back."""


class UpsamplersCheck(HeldOutCheck):
    """Upsamplers against bicubic of the same degraded input."""

    crops_per_side: int = Field(default=4, ge=1)
    """Fréchet distances compare the run's CLIP features of so many crops per side and picture,
    where the picture is larger than the side that CLIP reads."""
    sampling: tuple[UpsamplerSampling, ...] = ()
    """How each upsampler is sampled, smallest first; where it says nothing, as ``generate`` does
    (or as the paper does)."""
    num_resamples: int = Field(default=400, ge=100)
    """Bootstrap resamples of a Fréchet distance."""


class OwnClipFeatures(StrictModel):
    """Embeddings by the run's own CLIP, which also guides what is drawn: for comparing runs."""

    type: Literal["own_clip"] = "own_clip"


class OpenClipFeatures(StrictModel):
    """Embeddings by a CLIP that open_clip knows."""

    type: Literal["open_clip"]
    model: str = Field(min_length=1)
    """Architecture as open_clip lists it."""
    path: str = Field(min_length=1)
    """A local checkpoint; nothing is downloaded."""
    sha256: str = ""
    """Of the file; where it is not stated, it is read off the file."""


class InceptionFeatures(StrictModel):
    """The Inception of published Fréchet distances, 2,048 features."""

    type: Literal["inception"]
    path: str = Field(min_length=1)
    """Weights as torch-fidelity or pytorch-fid publish them; nothing is downloaded."""
    sha256: str = ""
    """Of the file; where it is not stated, it is read off the file."""


Features = Annotated[
    OwnClipFeatures | OpenClipFeatures | InceptionFeatures, Field(discriminator="type")
]


class DrawnCheck(HeldOutCheck):
    """What protocols state that draw pictures of prompts and compare them with held-out ones."""

    num_pictures: int = Field(default=256, ge=4)
    """Pictures per way to draw: of the small web's held-out prompts, elsewhere of held-out
    captions, one each, at most."""
    num_upsamplers: int = Field(default=1, ge=0)
    """Upsamplers that are used, smallest first; held-out pictures are shrunk to what they make."""
    features: tuple[Features, ...] = Field(default=(OwnClipFeatures(),), min_length=1)
    """What distances between pictures are taken on; the first is drawn in curves."""
    num_resamples: int = Field(default=200, ge=0)
    """Bootstrap resamples of a distance; a Fréchet distance of many dimensions takes seconds."""
    sampling: Sampling | None = None
    """How pictures are drawn; where nothing is said, as ``generate`` says (or the paper)."""


class PriorImportanceCheck(DrawnCheck):
    """What the prior is worth (paper §5.1, Fig. 8): pictures of captions with and without it."""


class GuidanceCheck(DrawnCheck):
    """Quality against the decoder's guidance, with z_img and without (paper §5.5, Fig. 11)."""

    guidance_scales: tuple[float, ...] = Field(
        default=(1.0, 1.25, 1.5, 2.0, 3.0, 4.0), min_length=2
    )
    """Of the decoder; the prior's draws are the same for all."""


class TypographicCheck(DrawnCheck):
    """Other classes' names drawn on held-out pictures (paper Fig. 6)."""

    classes: tuple[str, ...] = ()
    """What CLIP may take a picture for; pictures count whose caption names one of them."""
    things: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Words of which a caption must hold one, so that pictures of mere words do not count; none
    asks for nothing."""
    templates: tuple[str, ...] = ("a photo of a {}.", "a picture of a {}.")
    """Prompts with one ``{}`` for the class's name."""


class Probe(StrictModel):
    """A prompt at a known limit, and how its pictures are judged."""

    family: str = Field(pattern="^[a-z_]+$")
    prompt: str = Field(min_length=1)
    expect: str
    """What a right picture shows, told to people."""
    shows: str = ""
    """What a right picture shows, told to a CLIP; the prompt where nothing is said."""
    rivals: tuple[str, ...] = ()
    """What a wrong picture shows; a CLIP must like the right one better than each."""
    truth: dict[str, str] = Field(default_factory=dict)
    """What a judge of attributes must read."""
    wrong: dict[str, str] = Field(default_factory=dict)
    """What it must not read."""


class ProbesCheck(DrawnCheck):
    """Prompts at the known limits: binding, places, counts, negation, length, words, detail."""

    probes: tuple[Probe, ...] = ()
    """Where nothing is said, those of ``pipeline/evaluation/probes.yaml``."""
    num_each: int = Field(default=4, ge=1)
    """Pictures per prompt."""


class MemorisationCheck(HeldOutCheck):
    """Nearest training pictures of what ``generate`` made, by the run's own CLIP."""

    above_share: float = Field(default=0.99, gt=0.0, lt=1.0)
    """A generated picture is flagged that is nearer to a training picture than this share of
    held-out pictures are; what is near differs from CLIP to CLIP."""
    num_nearest: int = Field(default=3, ge=1, le=10)
    """Training pictures shown beside each."""


class SideBySideCheck(DrawnCheck):
    """Another run's models beside this run's, on the same prompts, with seconds per picture."""

    path: str = ""
    """The other run's ``output_dir``."""
    weights: tuple[str, ...] = ()
    """SHA-256 of the other run's weights; read off the run where they are not stated."""
    other_sampling: Sampling | None = None
    """How the other run draws; where nothing is said, as its own ``generate`` says."""


class ManipulationsCheck(HeldOutCheck):
    """Held-out pictures inverted and drawn again, varied, interpolated, changed by words."""

    num_samples: int = Field(default=128, ge=2)
    """Held-out samples, at most: of the test split, then of validation."""
    num_steps: int = Field(default=50, ge=2)
    """Denoising steps of an inversion, and as many of every way back."""
    eta: float = Field(default=1.0, gt=0.0, le=1.0)
    """Of variations: DDIM's share of fresh noise on the way."""
    thetas: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        default=(0.25, 0.5), min_length=1
    )
    """Shares of the way to a text difference; the paper goes to 0.25 to 0.50."""
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Principal components, ascending; none for powers of two and all."""
    sampling: Sampling | None = None
    """How decoder and upsamplers are guided and sampled; None as ``generate`` does."""


class ProtocolsConfig(StrictModel):
    """What ``jobs.evaluate --protocol`` measures beside the run's own stages."""

    priors: PriorsCheck = PriorsCheck()
    decoder: DecoderCheck = DecoderCheck()
    upsamplers: UpsamplersCheck = UpsamplersCheck()
    prior_importance: PriorImportanceCheck = PriorImportanceCheck()
    guidance: GuidanceCheck = GuidanceCheck()
    typographic: TypographicCheck = TypographicCheck()
    probes: ProbesCheck = ProbesCheck()
    memorisation: MemorisationCheck = MemorisationCheck()
    side_by_side: SideBySideCheck = SideBySideCheck()
    manipulations: ManipulationsCheck = ManipulationsCheck()
    gates: dict[str, float] = Field(default_factory=dict)
    """Smallest accepted value per metric, or of a bound: ``metric.low95``."""
    limits: dict[str, float] = Field(default_factory=dict)
    """Largest accepted value per metric or bound."""


class EvaluateConfig(StrictModel):
    """What one evaluation measures."""

    seed: int = Field(default=0, ge=0)
    """Seeds bootstrap resampling and every draw of the upsampling check."""
    profile: str = "generative"
    """Keep-list that says which pictures were trained on and which are held out."""
    retrieval_gallery: int = Field(default=256, ge=2)
    """Largest number of held-out pictures with distinct captions in the retrieval gallery."""
    num_nearest: int = Field(default=3, ge=1, le=10)
    """Nearest training pictures shown beside each generated picture."""
    num_shown: int = Field(default=48, ge=1)
    """Generated pictures shown in the report: the first ones, never a selection."""
    upsampling: UpsamplingCheck = UpsamplingCheck()
    gates: dict[str, float] = Field(default_factory=dict)
    """Smallest accepted value per metric, or of a bound: ``colour_accuracy.low95``."""
    limits: dict[str, float] = Field(default_factory=dict)
    """Largest accepted value per metric or bound."""
    execution: EvaluateExecution = EvaluateExecution()
