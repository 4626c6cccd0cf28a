"""Small square views of a shard's pictures, under the same keys, for the models that read them.

The largest centred square is scaled to ``side_px``: down with a Hamming filter whose support grows
with the reduction, so that nothing aliases (as sharp as bicubic there, at half its cost), up with a
bicubic one. Sides up to 64 px are kept as PNG, larger ones as JPEG of quality 95 without chroma
subsampling. Readers shrink them further by box means.
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.errors import DataError

MAX_PNG_SIDE_PX = 64
JPEG_QUALITY = 95
REDUCING_GAP = 2.0
"""Whole-number averaging goes first, down to twice the side."""


def centre_square(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest centred square, in pixels."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def view(image: Image.Image, side_px: int) -> Image.Image:
    """The square view of an RGB picture."""
    shrinks = min(image.size) > side_px
    return image.resize(
        (side_px, side_px),
        Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC,
        box=centre_square(*image.size),
        reducing_gap=REDUCING_GAP,
    )


def extension(side_px: int) -> str:
    """The format in which views of a side are kept."""
    return "png" if side_px <= MAX_PNG_SIDE_PX else "jpg"


def encode_view(image: Image.Image, side_px: int) -> bytes:
    """The bytes of the view of an RGB picture."""
    buffer = io.BytesIO()
    small = view(image, side_px)
    if extension(side_px) == "png":
        small.save(buffer, "PNG", compress_level=4)
    else:
        small.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def box_mean(image: Image.Image, side_px: int) -> Image.Image:
    """A view shrunk to a side that divides its own: what every model sees of it.

    Raises:
        DataError: The sides do not divide.
    """
    factor, rest = divmod(image.width, side_px)
    if rest or factor < 1:
        raise DataError(f"a picture of side {image.width} does not shrink to {side_px} evenly")
    return image if factor == 1 else image.reduce(factor)


def shrunk(
    pixels: UInt8[np.ndarray, " side side 3"], side_px: int
) -> UInt8[np.ndarray, " small small 3"]:
    """``box_mean`` of pixels."""
    if len(pixels) == side_px:
        return pixels
    return np.asarray(box_mean(Image.fromarray(pixels), side_px))
