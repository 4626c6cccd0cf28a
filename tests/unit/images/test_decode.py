import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.images.config import DecodeConfig
from pipeline.images.decode import Opened, Picture, decode, open_received, open_rgb, plain_jpeg
from tests.picture_corpus import STORED, chunk, header_bombs, png, saved

CONFIG = DecodeConfig(max_pixels=1_000_000, pool_side_px=128)


def scene(width=64, height=48):
    """Red top left, green top right, blue below: no symmetry at all."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :] = (0, 0, 255)
    return Image.fromarray(pixels)


def stored(image, orientation):
    """An upright picture as a camera of this orientation stores it."""
    how = STORED[orientation]
    return image if how is None else image.transpose(how)


def decoded(body, config=CONFIG):
    picture = decode(body, config)
    assert isinstance(picture, Picture), picture
    return picture


def corner(picture, x, y):
    return tuple(int(v) for v in picture.pixels[y, x])


@pytest.mark.parametrize("orientation", sorted(STORED))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_comes_out_upright_and_without_its_tag(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera of Mr Private"
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    picture = decoded(saved(stored(scene(), orientation), kind, exif=exif.tobytes(), **options))
    assert (picture.original_width, picture.original_height) == (64, 48)
    difference = np.abs(picture.pixels.astype(int) - np.asarray(scene()).astype(int))
    assert difference[2:20, 2:28].max() < 12
    assert difference[2:20, 36:60].max() < 12
    assert difference[28:46, 2:60].max() < 12
    again = Image.open(io.BytesIO(picture.encoded))
    assert not dict(again.getexif())
    assert b"Private" not in picture.encoded


def test_gps_and_comments_are_cut_out_without_touching_the_pixels():
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    plain = saved(scene(), "JPEG", quality=90)
    body = saved(
        scene(), "JPEG", quality=90, exif=exif.tobytes(), comment=b"secret", icc_profile=b"x" * 200
    )
    picture = decoded(body + b"appended after the end")
    assert picture.encoded == plain
    assert picture.encoded.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_plain_jpeg_keeps_its_bytes(progressive):
    body = saved(scene(), "JPEG", quality=90, progressive=progressive)
    assert decoded(body).encoded == body
    assert plain_jpeg(body) == body


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_other_formats_are_encoded_anew_as_fine_jpegs(kind):
    picture = decoded(saved(scene(), kind))
    stored = Image.open(io.BytesIO(picture.encoded))
    assert stored.format == "JPEG"
    assert all(layer[1:3] == (1, 1) for layer in stored.layer)
    difference = np.asarray(stored).astype(int) - picture.pixels
    assert np.abs(difference).mean() < 2


def test_png_text_is_not_kept():
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Mr Private")
    picture = decoded(saved(scene(), "PNG", pnginfo=info))
    assert picture.encoded.startswith(b"\xff\xd8\xff")
    assert b"Private" not in picture.encoded


def test_16_bit_grey_loses_its_low_byte_and_does_not_saturate():
    samples = (np.arange(32 * 32).reshape(32, 32) * 64).astype(np.uint16)
    picture = decoded(png(0, samples[..., None]))
    expected = (samples >> 8).astype(int)
    assert np.abs(picture.pixels[..., 0].astype(int) - expected).max() <= 3
    assert np.ptp(picture.pixels, axis=2).max() == 0


def test_16_bit_rgb_becomes_8_bit():
    samples = np.full((16, 16, 3), (0x8040, 0x2010, 0xF0FF), np.uint16)
    picture = decoded(png(2, samples))
    assert np.abs(picture.pixels.astype(int) - (0x80, 0x20, 0xF0)).max() <= 3
    assert picture.encoded.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("colour_type", "dtype", "colour"),
    [
        (0, np.uint8, (40,)),
        (0, np.uint16, (0x2805,)),
        (2, np.uint8, (40, 50, 60)),
        (2, np.uint16, (0x2805, 0x3206, 0x3C07)),
    ],
)
def test_the_one_transparent_colour_of_a_png_becomes_white(colour_type, dtype, colour):
    samples = np.zeros((32, 32, len(colour)), dtype)
    samples[:, 16:] = colour
    transparent = chunk(b"tRNS", struct.pack(f">{len(colour)}H", *colour))
    picture = decoded(png(colour_type, samples, transparent))
    assert max(corner(picture, 4, 10)) < 4
    assert min(corner(picture, 26, 10)) > 251


def test_the_transparent_grey_of_few_bits_becomes_white():
    image = Image.new("1", (32, 32), 0)
    image.paste(1, (16, 0, 32, 32))
    black = decoded(saved(image, "PNG", transparency=0))
    assert min(corner(black, 4, 10)) > 251
    assert min(corner(black, 26, 10)) > 251
    white = decoded(saved(image, "PNG", transparency=1))
    assert max(corner(white, 4, 10)) < 4
    assert min(corner(white, 26, 10)) > 251


def test_palette_grey_and_bilevel_become_rgb():
    grey = Image.linear_gradient("L").resize((64, 64))
    for image in (scene().convert("P"), grey, grey.convert("1")):
        picture = decoded(saved(image, "PNG"))
        difference = np.abs(picture.pixels.astype(int) - np.asarray(image.convert("RGB")))
        assert np.median(difference) <= 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_over_white(kind):
    image = scene().convert("RGBA")
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, 32:] = 0
    image.putalpha(Image.fromarray(alpha))
    picture = decoded(saved(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert min(corner(picture, 60, 5)) > 250
    assert corner(picture, 5, 5)[0] > 245
    assert max(corner(picture, 5, 5)[1:]) < 12


def test_a_transparent_palette_entry_is_white():
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.paste(0, (0, 0, 16, 32))
    for kind in ("PNG", "GIF"):
        picture = decoded(saved(palette, kind, transparency=0))
        assert min(corner(picture, 4, 10)) > 250
        assert np.abs(np.array(corner(picture, 26, 10)) - (200, 0, 0)).max() < 12


def test_cmyk_becomes_rgb():
    picture = decoded(saved(scene().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.array(corner(picture, 10, 10)) - (255, 0, 0)).max() < 30
    assert np.abs(np.array(corner(picture, 30, 40)) - (0, 0, 255)).max() < 30
    assert picture.image.mode == "RGB"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [scene(), Image.new("RGB", (64, 48), (9, 9, 9))]
    body = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    picture = decoded(body)
    assert corner(picture, 5, 5)[0] > 240
    assert getattr(Image.open(io.BytesIO(picture.encoded)), "n_frames", 1) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_file_cut_anywhere_is_refused_whole(kind):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (60, 60, 3), np.uint8))
    body = saved(noise, kind)
    for length in range(0, len(body) - 64, max(1, len(body) // 40)):
        assert decode(body[:length], CONFIG) == "decode_error", length


def test_wrong_formats_are_refused_even_if_pillow_knows_them():
    for kind in ("BMP", "TIFF", "ICO", "PPM"):
        assert decode(saved(scene(), kind), CONFIG) == "decode_error"
    assert decode(b"<html></html>", CONFIG) == "decode_error"
    assert decode(b"", CONFIG) == "decode_error"


@pytest.mark.parametrize("name", sorted(header_bombs()))
def test_a_huge_size_in_the_header_is_refused_before_decoding(name):
    assert decode(header_bombs()[name].body, CONFIG) == "too_many_pixels"


def test_larger_pictures_are_scaled_to_the_pool_side_and_keep_their_shape():
    picture = decoded(saved(scene(400, 300), "JPEG", quality=95))
    assert picture.image.size == (128, 96)
    assert (picture.original_width, picture.original_height) == (400, 300)
    assert open_rgb(picture.encoded).size == (128, 96)


def test_what_is_stored_decodes_to_what_was_hashed_when_bytes_are_kept():
    picture = decoded(saved(scene(), "JPEG", quality=80, comment=b"x"))
    assert np.array_equal(np.asarray(open_rgb(picture.encoded)), picture.pixels)


BODIES = [
    saved(scene(), "JPEG", quality=80),
    saved(scene(), "JPEG", progressive=True),
    saved(scene(), "PNG"),
    saved(scene().convert("RGBA"), "WEBP"),
    saved(scene(), "GIF"),
]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(BODIES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_mutated_files_have_a_defined_outcome(body, changes):
    mutated = bytearray(body)
    for place, value in changes:
        mutated[place % len(mutated)] = value
    outcome = decode(bytes(mutated), CONFIG)
    if isinstance(outcome, str):
        assert outcome in ("decode_error", "too_many_pixels")
    else:
        assert outcome.image.mode == "RGB"
        assert max(outcome.image.size) <= CONFIG.pool_side_px


LONG = {"max_pixels": 10_000_000, "pool_side_px": 1024}


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("no", None),
        ("keep_ratio", None),
        ("center_crop", None),
        ("keep_ratio_largest", (1024, 1)),
        ("border", (1024, 1024)),
    ],
)
def test_a_side_that_no_jpeg_may_have_is_a_reason_unless_it_is_scaled(mode, size):
    body = saved(Image.new("RGB", (66_000, 40), (9, 99, 9)), "PNG")
    found = decode(body, DecodeConfig(resize_mode=mode, **LONG))
    if size is None:
        assert found == "side_too_long"
    else:
        assert isinstance(found, Picture)
        assert found.image.size == open_rgb(found.encoded).size == size


def test_the_longest_side_of_a_jpeg_is_kept_and_one_more_pixel_is_not():
    config = DecodeConfig(resize_mode="no", **LONG)
    for side in (65_500, 65_501):
        for size in ((side, 2), (2, side)):
            found = decode(saved(Image.new("RGB", size), "PNG"), config)
            assert found == "side_too_long" if side > 65_500 else found.image.size == size


def test_enlarging_beyond_the_longest_side_is_a_reason_before_it_is_tried():
    body = saved(Image.new("RGB", (4000, 4)), "PNG")
    config = DecodeConfig(resize_mode="keep_ratio", resize_only_if_bigger=False, **LONG)
    assert decode(body, config) == "side_too_long"


def test_pictures_that_are_not_encoded_may_be_longer():
    opened = open_received(
        saved(Image.new("RGB", (66_000, 40)), "PNG"), DecodeConfig(resize_mode="no", **LONG)
    )
    assert isinstance(opened, Opened)
    assert opened.image.size == opened.original == (66_000, 40)
