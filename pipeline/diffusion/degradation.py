"""How the small picture is spoilt before an upsampler learns from it.

Runs in data preparation on bytes, with NumPy and Pillow; all draws come from the generator that is
handed in. Dimension names: ``height width`` of the small picture. Source: paper §2.1 and App. C.
"""

import io
import math

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from pipeline.diffusion.config import BlurConfig, BsrConfig


def degrade(
    picture: UInt8[np.ndarray, " height width 3"],
    config: BlurConfig | BsrConfig,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, " height width 3"]:
    """Spoil a small picture as its configuration says; size stays."""
    if isinstance(config, BlurConfig):
        return gaussian_blur(picture, config.sigma, radius=1)
    return bsr(picture, config, rng)


def gaussian_blur(
    picture: UInt8[np.ndarray, " height width 3"], sigma: float, radius: int
) -> UInt8[np.ndarray, " height width 3"]:
    """Separable Gaussian blur, borders repeated.

    Args:
        picture: Bytes.
        sigma: Standard deviation, pixels.
        radius: Kernel side is ``2·radius + 1``; the paper's kernel of 3 is radius 1.
    """
    offsets = np.arange(-radius, radius + 1, dtype=np.float32)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(
        picture.astype(np.float32), ((radius, radius), (radius, radius), (0, 0)), "edge"
    )
    height, width, _ = picture.shape
    rows = np.zeros_like(padded[:height])
    for i, weight in enumerate(kernel):
        rows += weight * padded[i : i + height]
    both = np.zeros((height, width, 3), dtype=np.float32)
    for i, weight in enumerate(kernel):
        both += weight * rows[:, i : i + width]
    return _to_bytes(both)


def bsr(
    picture: UInt8[np.ndarray, " height width 3"], config: BsrConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, " height width 3"]:
    """Blur, resize, noise and JPEG in random order and strength.

    Source: Rombach et al. 2022's simplified form of BSRGAN (Zhang et al. 2021, §3), which the
    paper names in App. C without its ranges; the ranges are the configuration's.
    """
    for kind in rng.permutation(4):
        picture = _BSR_STEPS[int(kind)](picture, config, rng)
    return picture


def _blur(
    picture: UInt8[np.ndarray, " height width 3"], config: BsrConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, " height width 3"]:
    sigma = float(rng.uniform(0.1, config.max_blur_sigma))
    return gaussian_blur(picture, sigma, radius=max(1, math.ceil(2 * sigma)))


def _resize(
    picture: UInt8[np.ndarray, " height width 3"], config: BsrConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, " height width 3"]:
    height, width, _ = picture.shape
    scale = float(rng.uniform(0.5, 1.5))
    filters = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX]
    there, back = (filters[int(rng.integers(3))] for _ in range(2))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, there).resize((width, height), back))


def _noise(
    picture: UInt8[np.ndarray, " height width 3"], config: BsrConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, " height width 3"]:
    std = float(rng.uniform(0, config.max_noise_std)) * 255
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    return _to_bytes(picture.astype(np.float32) + np.float32(std) * noise)


def _jpeg(
    picture: UInt8[np.ndarray, " height width 3"], config: BsrConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, " height width 3"]:
    buffer = io.BytesIO()
    quality = int(rng.integers(config.min_jpeg_quality, 96))
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _to_bytes(
    values: Float32[np.ndarray, " height width 3"],
) -> UInt8[np.ndarray, " height width 3"]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_BSR_STEPS = (_blur, _resize, _noise, _jpeg)
