"""Bytes of the web → upright 8-bit RGB pixels, within bounds, by stated rules.

Formats: JPEG, PNG, WebP, GIF (first frame), told by their first bytes, never by a name or header.
Size: width × height is read from the header and refused above a limit before anything is decoded.
Orientation (EXIF) is applied. Colours: palette, grey and bilevel become RGB; 16-bit samples lose
their low byte; CMYK is converted without a profile; transparency is laid over white; embedded
profiles are ignored, as if all pictures were sRGB. A picture that ends early is refused whole.

The pool holds JPEGs alone: readers of shards such as ``ray.data.read_webdataset`` make a column per
extension and fail where one is missing. An upright RGB JPEG that is small enough keeps its received
bytes, with its metadata segments (EXIF with GPS, XMP, IPTC, comments, profiles) cut out and the
pixels untouched; everything else is encoded anew. So no metadata survives.
"""

import io
import re
import struct
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.images.config import DecodeConfig

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

POOL_EXTENSION = "jpg"
"""Format of everything in the pool."""
ENTROPY_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The marker that ends entropy-coded JPEG data: stuffing, restarts and fill bytes are inside."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture in the form in which the pool keeps it."""

    image: Image.Image
    """Upright RGB, longer side at most the pool's."""
    encoded: bytes
    """What the pool stores, a JPEG of ``image``; the very pixels where received bytes are kept."""
    original_width: int
    """Of the received picture, upright."""
    original_height: int

    @property
    def pixels(self) -> UInt8[np.ndarray, " height width 3"]:
        """The pixels, 0 to 255."""
        return np.asarray(self.image)


class _RefusedError(Exception):
    pass


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
    """Decode a received body.

    Args:
        body: Bytes as received.
        config: Pixel limit, pool side, JPEG quality.

    Returns:
        The picture, or its drop reason: ``decode_error`` or ``too_many_pixels``.
    """
    try:
        kind = sniff(body)
        if kind is None:
            return "decode_error"
        image, untouched = _upright_rgb(body, kind, config.max_pixels)
    except _RefusedError as refused:
        return str(refused)
    # Pillow's plugins let through whatever their parsing meets in a damaged file: struct.error,
    # SyntaxError, IndexError, OSError, zlib.error and more. All of it means one thing.
    except Exception:
        return "decode_error"
    original = image.size
    image = _within(image, config.pool_side_px)
    if image.size == original and untouched:
        kept = plain_jpeg(body)
        if kept is not None:
            return Picture(image, kept, *original)
    return _encoded_anew(image, original, config.jpeg_quality)


def open_rgb(encoded: bytes) -> Image.Image:
    """Decode bytes that this module has written: a picture of the pool, of a shard or of a view."""
    kind = sniff(encoded)
    if kind is None:
        raise ValueError("neither JPEG, PNG, WebP nor GIF")
    with Image.open(io.BytesIO(encoded), formats=[kind]) as image:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


def _upright_rgb(body: bytes, kind: str, max_pixels: int) -> tuple[Image.Image, bool]:
    """The upright RGB picture, and whether its file is a JPEG that shows exactly that."""
    if kind == "WEBP":  # its decoder allocates the whole canvas before Pillow names the size
        _check_pixels(*_webp_size(body), max_pixels)
    with Image.open(io.BytesIO(body), formats=[kind]) as image:
        _check_pixels(*image.size, max_pixels)
        image.load()
        orientation = _orientation(image)
        plain = kind == "JPEG" and image.mode == "RGB" and orientation == 1
        rgb = _as_rgb(image)
    if orientation in TRANSPOSE:
        rgb = rgb.transpose(TRANSPOSE[orientation])
    return rgb, plain


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _RefusedError("too_many_pixels")


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


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; "I" holds the same values in 32 bits
        high_bytes = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(high_bytes.astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _within(image: Image.Image, side_px: int) -> Image.Image:
    longer = max(image.size)
    if longer <= side_px:
        return image
    width, height = (max(1, round(length * side_px / longer)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _encoded_anew(image: Image.Image, original: tuple[int, int], quality: int) -> Picture:
    buffer = io.BytesIO()
    # A fresh image: Pillow would write the comment or the profile that it read.
    clean = Image.frombytes("RGB", image.size, image.tobytes())
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
