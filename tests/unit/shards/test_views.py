import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.shards.views import centre_square, encode_view, extension, shrunk, view


def gradient(width, height):
    across = np.linspace(0, 255, width)[None, :, None]
    down = np.linspace(0, 255, height)[:, None, None]
    channels = [
        np.broadcast_to(each, (height, width, 1)) for each in (across, down, 128 + 0 * down)
    ]
    return Image.fromarray(np.concatenate(channels, axis=2).round().astype(np.uint8))


@pytest.mark.parametrize("size", [(320, 320), (500, 320), (320, 501), (90, 70)])
@pytest.mark.parametrize("side", [16, 64, 256])
def test_a_view_is_the_centred_square(size, side):
    found = np.asarray(view(gradient(*size), side)).astype(float)
    assert found.shape == (side, side, 3)
    width, height = size
    short = min(size)
    where = (np.arange(side) + 0.5) * short / side - 0.5
    across = ((width - short) / 2 + where) * 255 / (width - 1)
    down = ((height - short) / 2 + where) * 255 / (height - 1)
    inner = slice(2, side - 2)
    assert np.abs(found[side // 2, inner, 0] - across[inner]).max() < 3
    assert np.abs(found[inner, side // 2, 1] - down[inner]).max() < 3


def test_fine_patterns_become_grey_and_do_not_alias():
    pattern = (np.indices((320, 320)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = Image.fromarray(pattern).convert("RGB")
    small = np.asarray(view(image, 64)).astype(float)
    assert np.abs(small - 127.5).max() < 4


def test_the_square_is_centred_to_half_a_pixel():
    assert centre_square(100, 51) == (24.5, 0.0, 75.5, 51.0)


def test_small_views_are_lossless_and_large_ones_fine_jpegs():
    image = gradient(320, 320)
    small = encode_view(image, 64)
    assert extension(64) == "png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(small))), np.asarray(view(image, 64)))
    large = Image.open(io.BytesIO(encode_view(image, 256)))
    assert extension(256) == "jpg"
    assert large.format == "JPEG"
    assert all(layer[1:3] == (1, 1) for layer in large.layer)
    difference = np.asarray(large).astype(int) - np.asarray(view(image, 256))
    assert np.abs(difference).mean() < 1.5


def test_the_same_picture_gives_the_same_bytes():
    for side in (64, 256):
        assert encode_view(gradient(320, 280), side) == encode_view(gradient(320, 280), side)


def test_a_view_is_shrunk_by_the_mean_of_whole_boxes():
    pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    means = pixels.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk(pixels, 4) - means).max() <= 0.5
    assert np.array_equal(shrunk(pixels, 16), pixels)


@pytest.mark.parametrize("side", [5, 32])
def test_a_view_shrinks_only_to_sides_that_divide_its_own(side):
    with pytest.raises(DataError, match=f"a picture of side 16 does not shrink to {side} evenly"):
        shrunk(np.zeros((16, 16, 3), np.uint8), side)
