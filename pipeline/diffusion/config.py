"""How a diffusion process is laid out; plain values that import no torch."""

from typing import Literal

from pydantic import Field

from pipeline.config import StrictModel

ScheduleName = Literal["cosine", "linear"]
Prediction = Literal["eps", "x_start", "v"]


class DiffusionConfig(StrictModel):
    """Noise schedule and what the network predicts."""

    schedule: ScheduleName = "cosine"
    """Cosine: Nichol & Dhariwal 2021, Eq. 17; linear: Ho et al. 2020 §4."""
    num_steps: int = Field(default=1000, ge=2)
    """Steps T of the forward process."""
    prediction: Prediction
    """The network's output: the noise, the clean sample, or the velocity."""


class BlurConfig(StrictModel):
    """Gaussian blur of the small picture (paper App. C: kernel 3, sigma 0.6)."""

    type: Literal["blur"] = "blur"
    sigma: float = Field(default=0.6, gt=0)
    """Standard deviation, pixels of the small picture."""


class BsrConfig(StrictModel):
    """Blur, resize, noise and JPEG in random order (after BSRGAN, Zhang et al. 2021)."""

    type: Literal["bsr"] = "bsr"
    max_blur_sigma: float = Field(default=2.0, gt=0)
    """Pixels of the small picture."""
    max_noise_std: float = Field(default=0.1, ge=0, le=1)
    """Standard deviation of the noise, pictures in [0, 1]."""
    min_jpeg_quality: int = Field(default=30, ge=1, le=95)
