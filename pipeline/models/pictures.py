"""Pictures as bytes and as the networks see them.

Dimension names: ``batch``; ``channel height width``.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


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
