"""Pictures of every kind that the web holds, and files that only pretend; one outcome each."""

import io
import struct
import zlib
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image

KEPT = None
MAX_PIXELS = 1_000_000
KILOBYTE = 1024

STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation → how an upright picture is stored."""


@dataclass(frozen=True)
class Case:
    """A file and what must become of it."""

    body: bytes
    outcome: str | None
    """Drop reason, or ``KEPT``."""
    looks: Image.Image | None = None
    """What a kept picture shows, but for the losses of JPEG."""


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(seed, width=96, height=72):
    """A smooth random picture, another one for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def noise(seed, side=100):
    """A picture that no format makes small."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(colour_type, samples, *chunks):
    """A PNG by hand, as deep as its samples: of 16 bits Pillow writes only grey ones."""
    height, width = samples.shape[:2]
    samples = samples.astype(samples.dtype.newbyteorder(">"))
    raw = b"".join(b"\x00" + row.tobytes() for row in samples)
    depth = 8 * samples.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = b"".join([*chunks, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def flat_png(side, channels=4, depth=16):
    """A picture of zeros: few bytes, many pixels."""
    row = bytes(1 + side * channels * depth // 8)
    packer = zlib.compressobj(9)
    raw = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    colour_type = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", side, side, depth, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", raw) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def slow_jpeg(num_scans=4000, side=900):
    """A small progressive JPEG whose scans, each a few bytes, all pass over the whole picture."""
    body = saved(Image.new("L", (side, side)), "JPEG", progressive=True, quality=50)
    last = body.rindex(b"\xff\xda")
    scan = body[last : body.rindex(b"\xff\xd9")]
    return body[:last] + scan * num_scans + b"\xff\xd9"


def header_bombs(side=60_000):
    """Small files whose headers promise billions of pixels."""
    scene = photograph(0)
    png_body = bytearray(saved(scene, "PNG"))
    png_body[16:24] = struct.pack(">II", side, side)
    png_body[29:33] = struct.pack(">I", zlib.crc32(bytes(png_body[12:29])))
    gif = bytearray(saved(scene, "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    frame = bytearray(saved(scene, "GIF"))
    place = frame.index(b"\x2c\x00\x00\x00\x00")  # the frame is larger than the screen
    frame[place + 5 : place + 9] = struct.pack("<HH", side, side)
    jpeg = bytearray(saved(scene, "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", side, side)
    webp = bytearray(saved(scene, "WEBP"))
    webp[26:30] = struct.pack("<HH", 16_000, 16_000)
    extended = bytearray(saved(scene.convert("RGBA"), "WEBP", exif=b"Exif\0\0II"))
    extended[24:30] = b"\xff\x3f\x00" * 2
    named = {"png": png_body, "gif": gif, "gif-frame": frame, "jpeg": jpeg, "webp": webp}
    bodies = {**named, "webp-extended": extended}
    return {f"bomb-{name}": Case(bytes(body), "too_many_pixels") for name, body in bodies.items()}


def orientations():
    kinds = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}
    found = {}
    for number, (orientation, kind) in enumerate(product(STORED, kinds)):
        upright, stored = photograph(100 + number), STORED[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = upright if stored is None else upright.transpose(stored)
        body = saved(image, kind, exif=exif.tobytes(), **kinds[kind])
        found[f"orientation-{orientation}-{kind.lower()}"] = Case(body, KEPT, upright)
    return found


def colours():
    """Every way to say a colour that ends as RGB."""
    rgb, deep = photograph(1), np.asarray(photograph(2)).astype(np.uint16) << 8
    grey, cmyk = photograph(3).convert("L"), photograph(4).convert("CMYK")
    palette = photograph(5).convert("P", palette=Image.Palette.ADAPTIVE)
    half = photograph(6).convert("RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    white = Image.new("RGBA", half.size, "white")
    laid = Image.alpha_composite(white, half).convert("RGB")
    grey_alpha = photograph(7).convert("LA")
    deep_grey = np.asarray(photograph(8).convert("L")).astype(np.uint16) << 8
    return {
        "rgb": Case(saved(rgb, "JPEG", quality=95), KEPT, rgb),
        "progressive": Case(
            saved(photograph(20), "JPEG", quality=95, progressive=True), KEPT, photograph(20)
        ),
        "png-16-bit-rgb": Case(png(2, deep), KEPT, photograph(2)),
        "png-16-bit-grey": Case(png(0, deep_grey[..., None]), KEPT, photograph(8).convert("L")),
        "grey": Case(saved(grey, "JPEG", quality=95), KEPT, grey),
        "cmyk": Case(saved(cmyk, "JPEG", quality=95), KEPT, cmyk.convert("RGB")),
        "palette": Case(saved(palette, "PNG"), KEPT, palette.convert("RGB")),
        "bilevel": Case(saved(photograph(9).convert("1"), "PNG"), KEPT, photograph(9).convert("1")),
        "alpha-png": Case(saved(half, "PNG"), KEPT, laid),
        "alpha-grey": Case(saved(grey_alpha, "PNG"), KEPT, photograph(7).convert("L")),
    }


def animations():
    found = {}
    for seed, kind in enumerate(("GIF", "WEBP", "PNG")):
        first = photograph(30 + seed)
        if kind == "GIF":
            first = first.convert("P", palette=Image.Palette.ADAPTIVE)
        others = [photograph(40 + index) for index in range(50)]
        options = {"lossless": True} if kind == "WEBP" else {}
        body = saved(first, kind, save_all=True, append_images=others, **options)
        found[f"animated-{kind.lower()}"] = Case(body, KEPT, first.convert("RGB"))
    return found


def truncated():
    """Four formats, cut after every kilobyte."""
    found = {}
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        body = saved(noise(50), kind)
        for length in range(KILOBYTE, len(body), KILOBYTE):
            found[f"cut-{kind.lower()}-{length}"] = Case(body[:length], "decode_error")
    found["cut-empty"] = Case(b"", "wrong_content_type")
    return found


def pretenders():
    """Wrong names, other formats, and files made to exhaust whoever opens them."""
    text = zlib.compress(bytes(50_000_000), 9)
    samples = np.asarray(photograph(60))
    return {
        "png-named.jpg": Case(saved(photograph(61), "PNG"), KEPT, photograph(61)),
        "jpeg-named.webp": Case(saved(photograph(62), "JPEG", quality=95), KEPT, photograph(62)),
        "page.jpg": Case(b"<html><body>404</body></html>", "wrong_content_type"),
        "drawing.png": Case(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "wrong_content_type"),
        "bitmap.jpg": Case(saved(photograph(63), "BMP"), "wrong_content_type"),
        "scan.png": Case(saved(photograph(64), "TIFF"), "wrong_content_type"),
        "signature-alone.jpg": Case(b"\xff\xd8\xff", "decode_error"),
        "text-bomb": Case(png(2, samples, chunk(b"zTXt", b"a\0\0" + text)), "decode_error"),
        "profile-bomb": Case(png(2, samples, chunk(b"iCCP", b"a\0\0" + text)), "decode_error"),
        "many-pixels": Case(flat_png(4000, channels=1, depth=8), "too_many_pixels"),
        "slow": Case(slow_jpeg(), "decode_timeout"),
    }


def corpus():
    """All cases by file name."""
    parts = (orientations, colours, animations, truncated, header_bombs, pretenders)
    return {name: case for part in parts for name, case in part().items()}


def neighbours(num=12):
    """Good pictures between which the others lie."""
    return {
        f"good-{number}.jpg": saved(photograph(1000 + number), "JPEG", quality=92)
        for number in range(num)
    }
