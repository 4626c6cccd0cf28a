"""The size in which a picture is kept: img2dataset's modes, and how much a decoder may skip.

Sizes and places are img2dataset's own (``Resizer`` of 1.47): the other side is rounded to whole
pixels, a crop and a border are centred, an odd pixel of them falls to the right and the bottom.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.images.config import DecodeConfig

BY_SHORTER_SIDE = ("keep_ratio", "center_crop")
WHITE = (255, 255, 255)
FILTERS = {
    "lanczos": (Image.Resampling.LANCZOS, None, 3.0),
    "hamming": (Image.Resampling.HAMMING, None, None),
}
"""Filter, box (all of the picture) and gap: before Lanczos, whole-number averaging goes down to so
many times the size."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


def scaled_size(size: Size, config: DecodeConfig) -> Size:
    """The size that a picture is scaled to, before anything is cut off or put around.

    Args:
        size: Of the upright picture as received, or turned by 90°: then so is the result.
        config: Side, mode, and whether smaller pictures stay.
    """
    if config.resize_mode == "no":
        return size
    side = min(size) if config.resize_mode in BY_SHORTER_SIDE else max(size)
    if config.resize_only_if_bigger and side <= config.pool_side_px:
        return size
    scale = config.pool_side_px / side
    return Size(*(max(1, round(length * scale)) for length in size))


def kept_size(size: Size, config: DecodeConfig) -> Size:
    """The size in which a picture is kept.

    Args:
        size: Of the upright picture as received, or turned by 90°: then so is the result.
        config: Side, mode, and whether smaller pictures stay.
    """
    scaled = scaled_size(size, config)
    if _stays(size, scaled, config) or config.resize_mode not in ("center_crop", "border"):
        return scaled
    return Size(config.pool_side_px, config.pool_side_px)


def _stays(size: Size, scaled: Size, config: DecodeConfig) -> bool:
    return scaled == size and config.resize_only_if_bigger


def resized(image: Image.Image, original: Size, config: DecodeConfig) -> Image.Image:
    """Bring an upright RGB picture to the size in which the pool keeps it.

    Args:
        image: The picture; smaller than ``original`` where the decoder has skipped pixels.
        original: Its size as received, upright.
        config: Side, mode, kernel.

    Returns:
        The same object where nothing is to be done.
    """
    size = scaled_size(original, config)
    image = _scaled(image, size, config)
    if _stays(original, size, config):
        return image
    if config.resize_mode == "center_crop":
        return _cropped(image, config.pool_side_px)
    return _bordered(image, config.pool_side_px) if config.resize_mode == "border" else image


def _scaled(image: Image.Image, size: Size, config: DecodeConfig) -> Image.Image:
    if image.size == size:
        return image
    shrinks = image.width > size.width or image.height > size.height
    if shrinks and config.downscale in FILTERS:
        return image.resize(size, *FILTERS[config.downscale])
    import cv2  # 0.1 s: only where it is needed

    kernel = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    if shrinks and config.downscale == "bilinear" and _is_at_most_halved(image, size):
        kernel = cv2.INTER_LINEAR
    return Image.fromarray(cv2.resize(np.asarray(image), size, interpolation=kernel))


def _is_at_most_halved(image: Image.Image, size: Size) -> bool:
    """Whether two taps a side read every pixel."""
    return image.width <= 2 * size.width and image.height <= 2 * size.height


def _cropped(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _bordered(image: Image.Image, side: int) -> Image.Image:
    canvas = Image.new("RGB", (side, side), WHITE)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas
