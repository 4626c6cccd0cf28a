"""What to measure and which numbers must hold; imports nothing heavy."""

from pydantic import Field

from pipeline.config import StrictModel


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
