"""Pictures as bytes and as the networks see them.

Dimension names: ``batch``; ``channel height width``; ``side``, ``small`` (pixels of a square).
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional


def to_unit(
    pictures: UInt8[Tensor, " batch channel height width"],
) -> Float[Tensor, " batch channel height width"]:
    """Bytes → float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def to_bytes(
    pictures: Float[Tensor, " batch channel height width"],
) -> UInt8[Tensor, " batch channel height width"]:
    """[-1, 1] → bytes, rounded; values outside are clipped."""
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def as_clip_reads(
    pictures: Float[Tensor, " batch 3 side side"], side_px: int
) -> Float[Tensor, " batch 3 small small"]:
    """Pictures in [-1, 1] of another side, differentiable.

    An even shrink is a box mean, as the stored views are shrunk in training; else bicubic.
    """
    if pictures.shape[-1] % side_px == 0:
        return functional.adaptive_avg_pool2d(pictures, side_px)
    resized = functional.interpolate(
        pictures, (side_px, side_px), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(-1, 1)
