"""Sizes and pixels are img2dataset's: compared with its ``Resizer``, which runs beside the test."""

import io
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.config import DecodeConfig
from pipeline.images.decode import Picture, decode, open_rgb
from pipeline.images.resize import Size, resized, scaled_size

REFERENCE = Path(__file__).with_name("resizer_reference.py")
MODES = ("no", "keep_ratio", "keep_ratio_largest", "center_crop", "border")
SIDE = 96
SIZES = [(200, 133), (133, 200), (301, 97), (96, 96), (96, 150), (40, 64), (500, 95), (1023, 767)]


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(width, height, seed=0):
    """Smooth areas, edges and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels[height // 3 :, width // 2 :] //= 2
    noisy = pixels + rng.normal(0, 4, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def cases():
    """What Resizer handles rightly: upright 8-bit RGB pictures, also transparent ones."""
    bodies = [("png", saved(photograph(*size), "PNG")) for size in SIZES]
    for quality, subsampling in ((95, 0), (75, 2)):
        options = {"quality": quality, "subsampling": subsampling}
        bodies.append(("jpeg", saved(photograph(333, 250), "JPEG", **options)))
    bodies.append(("webp", saved(photograph(250, 190), "WEBP", lossless=True)))
    transparent = photograph(210, 140).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((210, 140)))
    bodies.append(("alpha", saved(transparent, "PNG")))
    return [
        (mode, only, kind, body)
        for (mode, only), (kind, body) in product(product(MODES, (True, False)), bodies)
    ]


def config(mode, only_if_bigger, **options):
    return DecodeConfig(
        pool_side_px=SIDE,
        resize_mode=mode,
        resize_only_if_bigger=only_if_bigger,
        downscale="area",
        **options,
    )


@pytest.fixture(scope="module")
def references():
    requests = []
    for mode, only, _, body in cases():
        settings = {"image_size": SIDE, "resize_mode": mode, "resize_only_if_bigger": only}
        requests.append(json.dumps({"settings": settings, "body": body.hex()}))
    answers = subprocess.run(
        [sys.executable, str(REFERENCE)],
        input="\n".join(requests),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in answers.stdout.splitlines()]


def test_every_mode_gives_resizers_pixels(references):
    assert len(references) == len(cases()) == 120
    for (mode, only, kind, body), reference in zip(cases(), references, strict=True):
        theirs = np.asarray(Image.open(io.BytesIO(bytes.fromhex(reference["png"]))))
        found = decode(body, config(mode, only))
        assert isinstance(found, Picture)
        assert found.pixels.shape == theirs.shape, (mode, only, kind)
        difference = np.abs(found.pixels.astype(int) - theirs).max()
        # Its transparency is laid over white in floating point, Pillow's in whole numbers.
        assert difference <= (1 if kind == "alpha" else 0), (mode, only, kind)


def test_by_default_the_longer_side_shrinks_to_the_pools_and_nothing_grows():
    default = DecodeConfig(pool_side_px=SIDE)
    assert scaled_size(Size(1000, 500), default) == (96, 48)
    assert scaled_size(Size(96, 96), default) == (96, 96)
    small = photograph(50, 30)
    assert resized(small, Size(50, 30), default) is small


@given(st.sampled_from(MODES), st.booleans(), st.integers(1, 4000), st.integers(1, 4000))
def test_the_named_side_is_met(mode, only_if_bigger, width, height):
    found = scaled_size(Size(width, height), config(mode, only_if_bigger))
    turned = scaled_size(Size(height, width), config(mode, only_if_bigger))
    assert turned == (found.height, found.width)
    assert min(found) >= 1
    if mode == "no":
        assert found == (width, height)
        return
    by_shorter = mode in ("keep_ratio", "center_crop")
    side = min if by_shorter else max
    if only_if_bigger and side(width, height) <= SIDE:
        assert found == (width, height)
    else:
        assert side(found) == SIDE


def psnr(one, other):
    error = np.mean((np.asarray(one).astype(float) - np.asarray(other)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


@pytest.mark.parametrize("downscale", ["area", "bilinear", "hamming", "lanczos"])
@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1803), (777, 1500)])
def test_a_decoder_that_skips_pixels_stays_within_the_quality_bound(downscale, size):
    body = saved(photograph(*size), "JPEG", quality=92)
    full = config("keep_ratio", True).model_copy(update={"downscale": downscale})
    skipping = full.model_copy(update={"dct_margin": 2.0})
    expected, found = decode(body, full), decode(body, skipping)
    assert isinstance(expected, Picture)
    assert isinstance(found, Picture)
    assert found.image.size == expected.image.size
    assert (found.original_width, found.original_height) == size
    assert psnr(found.image, expected.image) >= 38
    assert found.encoded != expected.encoded  # something was skipped


@pytest.mark.parametrize("size", [(1600, 1200), (601, 903)])
def test_two_taps_behind_a_skipping_decoder_are_as_near_to_plain_means_as_hamming(size):
    body = saved(photograph(*size), "JPEG", quality=92)
    means = decode(body, config("keep_ratio", True))
    assert isinstance(means, Picture)
    distances = []
    for downscale in ("bilinear", "hamming"):
        skipping = config("keep_ratio", True, dct_margin=1.0)
        found = decode(body, skipping.model_copy(update={"downscale": downscale}))
        assert isinstance(found, Picture)
        distances.append(psnr(found.image, means.image))
    assert distances[0] >= max(distances[1] - 0.5, 33)


def test_a_skipping_decoder_turns_pictures_upright_and_keeps_their_sizes():
    exif = Image.Exif()
    exif[0x0112] = 6
    body = saved(photograph(1600, 1200), "JPEG", quality=92, exif=exif.tobytes())
    plain, skipping = config("keep_ratio", True), config("keep_ratio", True, dct_margin=2.0)
    expected, found = decode(body, plain), decode(body, skipping)
    assert isinstance(expected, Picture)
    assert isinstance(found, Picture)
    assert (found.original_width, found.original_height) == (1200, 1600)
    assert found.image.size == expected.image.size == (96, 128)
    assert psnr(found.image, expected.image) >= 38


def test_a_picture_that_is_not_scaled_is_decoded_in_full():
    body = saved(photograph(90, 60), "JPEG", quality=92)
    found = decode(body, config("keep_ratio_largest", True, dct_margin=1.0))
    assert isinstance(found, Picture)
    assert found.encoded == body


@pytest.mark.parametrize("downscale", ["area", "bilinear", "hamming", "lanczos"])
def test_every_kernel_averages_what_does_not_fit(downscale):
    """Stripes of one pixel become grey; a kernel that does not widen would leave bands."""
    stripes = np.zeros((250, 333, 3), np.uint8)
    stripes[:, ::2] = 255
    wide = config("keep_ratio_largest", True).model_copy(update={"downscale": downscale})
    found = decode(saved(Image.fromarray(stripes), "PNG"), wide)
    assert isinstance(found, Picture)
    assert found.image.size == (SIDE, 72)
    assert np.abs(found.pixels.astype(int) - 128).max() < 40


def test_a_border_is_white_and_a_crop_is_the_middle():
    wide = Image.new("RGB", (300, 100), (10, 20, 30))
    wide.paste((200, 0, 0), (100, 0, 200, 100))
    bordered = decode(saved(wide, "PNG"), config("border", True))
    cropped = decode(saved(wide, "PNG"), config("center_crop", True))
    assert isinstance(bordered, Picture)
    assert isinstance(cropped, Picture)
    assert bordered.image.size == cropped.image.size == (SIDE, SIDE)
    assert bordered.image.getpixel((50, 2)) == (255, 255, 255)
    assert bordered.image.getpixel((5, 48)) == (10, 20, 30)
    assert cropped.image.getpixel((48, 48)) == (200, 0, 0)
    assert np.abs(np.asarray(open_rgb(cropped.encoded)).astype(int) - (200, 0, 0)).max() < 12
