"""Bytes of the web → upright 8-bit RGB pixels, within bounds, by stated rules.

Formats: JPEG, PNG, WebP, GIF, told by their first bytes, never by a name or header; of an animation
the first frame. Size: width × height is read from the header and refused above a limit before
anything is decoded. Orientation (EXIF) is applied. Colours: palette, grey and bilevel become RGB;
16-bit samples lose their low byte; CMYK is converted without a profile; transparency is laid over
white; embedded profiles are ignored, as if all pictures were sRGB. A picture that ends early is
refused whole.

What opens is encoded only where it goes into a pool: adopted pictures stay as they lie.

The pool holds JPEGs alone: readers of shards such as ``ray.data.read_webdataset`` make a column per
extension and fail where one is missing. An upright RGB JPEG that is small enough keeps its received
bytes, with its metadata segments (EXIF with GPS, XMP, IPTC, comments, profiles) cut out and the
pixels untouched; everything else is encoded anew. So no metadata survives.

Nothing here bounds time or memory beyond the limit of pixels: pictures of strangers are decoded in
a process that can be killed (``decoder``).
"""

import io
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.images.config import DecodeConfig
from pipeline.images.resize import Size, kept_size, resized, scaled_size

# Pillow's own limit warns at one size and raises at another; ours is checked on every picture.
Image.MAX_IMAGE_PIXELS = None

ORIENTATION_TAG = 0x0112
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes the picture upright (EXIF 2.32, tag 274)."""
TURNED = frozenset({5, 6, 7, 8})
"""Orientations whose upright picture is as wide as the stored one is high."""
STRIP_ROWS = 256

POOL_EXTENSION = "jpg"
"""Format of everything in the pool."""
MAX_JPEG_SIDE_PX = 65_500
"""Longest side that libjpeg writes."""

DECODE_ERROR = "decode_error"
DECODE_MEMORY = "decode_memory"
TOO_MANY_PIXELS = "too_many_pixels"
SIDE_TOO_LONG = "side_too_long"
ENTROPY_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The marker that ends entropy-coded JPEG data: stuffing, restarts and fill bytes are inside."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture in the form in which the pool keeps it."""

    image: Image.Image
    """Upright RGB, in the pool's size."""
    encoded: bytes
    """What the pool stores, a JPEG of ``image``; the very pixels where received bytes are kept."""
    original_width: int
    """Of the received picture, upright."""
    original_height: int

    @property
    def pixels(self) -> UInt8[np.ndarray, " height width 3"]:
        """The pixels, 0 to 255."""
        return np.asarray(self.image)


@dataclass(frozen=True)
class Opened:
    """A received picture, upright and RGB, in the size in which it is kept; not encoded."""

    image: Image.Image
    original: Size
    """Of the received picture, upright."""
    is_plain: bool
    """Whether its file is a JPEG that shows exactly ``image``."""


class _RefusedError(Exception):
    pass


Found = TypeVar("Found")


def sniff(body: bytes) -> str | None:
    """Pillow's name of the format that the first bytes announce, None where it is not allowed."""
    if body.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "WEBP"
    return "GIF" if body[:6] in (b"GIF87a", b"GIF89a") else None


def decode(body: bytes, config: DecodeConfig) -> Picture | str:
    """Decode a received body and encode it for the pool.

    Args:
        body: Bytes as received.
        config: Pixel limit, the pool's size and how it is reached, JPEG quality.

    Returns:
        The picture, or its drop reason: those of ``open_received``, or ``side_too_long`` where the
        picture, in the size in which it would be kept, exceeds what a JPEG may have (65,500 px).
    """
    return guarded(lambda: _encoded(body, _opened(body, config, must_fit=True), config))


def open_received(body: bytes, config: DecodeConfig) -> Opened | str:
    """Decode a received body for somebody who does not want it encoded.

    Args:
        body: Bytes as received.
        config: Pixel limit, size and how it is reached.

    Returns:
        The picture, or its drop reason: ``decode_error``, ``too_many_pixels`` or, where the memory
        of this process is limited, ``decode_memory``.
    """
    return guarded(lambda: _opened(body, config, must_fit=False))


def guarded(work: Callable[[], Found]) -> Found | str:
    """What handling one picture gives, or the drop reason that its failure means."""
    try:
        return work()
    except _RefusedError as refused:
        return str(refused)
    except MemoryError:
        return DECODE_MEMORY
    # Pillow's plugins let through whatever their parsing meets in a damaged file: struct.error,
    # SyntaxError, IndexError, OSError, zlib.error and more. All of it means one thing.
    except Exception:
        return DECODE_ERROR


def open_rgb(encoded: bytes) -> Image.Image:
    """Decode bytes that this module has written: a picture of the pool, of a shard or of a view."""
    kind = sniff(encoded)
    if kind is None:
        raise ValueError("neither JPEG, PNG, WebP nor GIF")
    with Image.open(io.BytesIO(encoded), formats=[kind]) as image:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


def _opened(body: bytes, config: DecodeConfig, *, must_fit: bool) -> Opened:
    kind = sniff(body)
    if kind is None:
        raise _RefusedError(DECODE_ERROR)
    image, size, is_plain = _received(body, kind, config, must_fit=must_fit)
    kept = resized(image, size, config)
    return Opened(kept, size, is_plain and kept is image)


def _received(
    body: bytes, kind: str, config: DecodeConfig, *, must_fit: bool
) -> tuple[Image.Image, Size, bool]:
    """The picture upright and RGB, its received size, and whether its file is a JPEG of just that.

    Smaller than that size where the decoder was allowed to skip pixels.
    """
    if kind == "WEBP":  # its decoder allocates the whole canvas before Pillow names the size
        _check_pixels(*_webp_size(body), config.max_pixels)
    with Image.open(io.BytesIO(body), formats=[kind]) as image:
        size = Size(*image.size)
        _check_pixels(*size, config.max_pixels)
        if must_fit and max(kept_size(size, config)) > MAX_JPEG_SIDE_PX:
            raise _RefusedError(SIDE_TOO_LONG)
        if kind == "JPEG":
            _skip_pixels(image, config)
        image.load()
        orientation = _orientation(image)
        plain = kind == "JPEG" and image.mode == "RGB" and orientation == 1
        if kind == "PNG" and "transparency" in image.info:
            image.info["transparency"] = _png_transparency(image, depth=body[24])
        rgb = _as_rgb(image)
    if orientation in TRANSPOSE:
        rgb = rgb.transpose(TRANSPOSE[orientation])
    if orientation in TURNED:
        size = Size(size.height, size.width)
    return rgb, size, plain and rgb.size == size


def _skip_pixels(image: Image.Image, config: DecodeConfig) -> None:
    """Let the JPEG decoder leave out high frequencies that scaling would remove anyway."""
    size = Size(*image.size)
    wanted = scaled_size(size, config)
    if config.dct_margin is not None and wanted != size:
        width, height = (math.ceil(length * config.dct_margin) for length in wanted)
        image.draft(image.mode, (width, height))  # none of its halvings goes below


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _RefusedError(TOO_MANY_PIXELS)


def _webp_size(body: bytes) -> tuple[int, int]:
    """Canvas size of a WebP file (RFC 9649, 2.5–2.7)."""
    chunk = body[12:16]
    if chunk == b"VP8X":
        width = int.from_bytes(body[24:27], "little") + 1
        return width, int.from_bytes(body[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", body[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or none that can be read."""
    if "exif" not in image.info and "Raw profile type exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata does not spoil the pixels
        return 1
    return value if value in TRANSPOSE else 1


def _png_transparency(image: Image.Image, depth: int) -> Any:  # noqa: ANN401 - as Pillow has it
    """The transparent colour of a PNG on the scale of the pixels that Pillow makes of it.

    Pillow leaves it as the file has it (PNG 3rd ed., 11.3.1.1), whatever the depth of the samples.
    """
    colour = image.info["transparency"]
    if isinstance(colour, tuple) and depth == 16:
        return tuple(value >> 8 for value in colour)
    if isinstance(colour, int) and image.mode in ("1", "L"):
        return colour * 255 // ((1 << depth) - 1)
    return colour


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; "I" holds the same values in 32 bits
        return _from_16_bit(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return _over_white(image if image.mode == "RGBA" else image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    high_bytes = (np.clip(samples, 0, 65535) >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        high_bytes[samples == transparent] = 255
    return Image.fromarray(high_bytes).convert("RGB")


def _over_white(rgba: Image.Image) -> Image.Image:
    """Lay a picture over white, a strip at a time: no second picture of four channels."""
    rgb = Image.new("RGB", rgba.size)
    for top in range(0, rgba.height, STRIP_ROWS):
        strip = rgba.crop((0, top, rgba.width, min(top + STRIP_ROWS, rgba.height)))
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        rgb.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return rgb


def _encoded(body: bytes, opened: Opened, config: DecodeConfig) -> Picture:
    kept = plain_jpeg(body) if opened.is_plain else None
    if kept is not None:
        return Picture(opened.image, kept, *opened.original)
    return _encoded_anew(opened.image, opened.original, config.jpeg_quality)


def _encoded_anew(image: Image.Image, original: Size, quality: int) -> Picture:
    buffer = io.BytesIO()
    clean = image.copy()
    clean.info = {}  # Pillow would write the comment or the profile that it read
    clean.save(buffer, "JPEG", quality=quality, subsampling=0)
    return Picture(clean, buffer.getvalue(), *original)


def plain_jpeg(body: bytes) -> bytes | None:
    """Cut APP1–APP13, APP15 and comment segments, and all that follows the end of the image.

    Returns:
        The file with the same pixel data, or None where its structure cannot be followed.
    """
    parts, position = [body[:2]], 2
    while position + 4 <= len(body):
        if body[position] != 0xFF:
            return None
        marker = body[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xD9:
            return b"".join([*parts, b"\xff\xd9"])
        end = position + 2 + int.from_bytes(body[position + 2 : position + 4], "big")
        if marker == 0xDA:
            found = ENTROPY_END.search(body, end)
            if found is None:
                return None
            end = found.start()
        if not _is_metadata(marker, body[position + 4 : position + 9]):
            parts.append(body[position:end])
        position = end
    return b"".join([*parts, b"\xff\xd9"]) if body[position : position + 2] == b"\xff\xd9" else None


def _is_metadata(marker: int, start: bytes) -> bool:
    if marker == 0xE0:  # JFIF stays; JFXX holds a thumbnail
        return start != b"JFIF\x00"
    if marker == 0xEE:  # Adobe's colour transform decides how pixels are read
        return start != b"Adobe"
    return 0xE1 <= marker <= 0xEF or marker == 0xFE
