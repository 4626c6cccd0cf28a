import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.demo.known import DAMAGE, accuracy, clean, confusion_matrix, damaged
from pipeline.demo.oracle import NONE, UNREADABLE, read

NUM = 208  # at least 200 known pictures, every combination among them


@pytest.mark.parametrize("side_px", [16, 64, 256])
def test_clean_pictures_are_read_right_and_damaged_ones_not_at_all(side_px):
    confusion = confusion_matrix(NUM, side_px, seed=11)
    assert accuracy(confusion, "colour") >= 0.99
    assert accuracy(confusion, "background") >= 0.99
    if side_px >= 64:
        assert accuracy(confusion, "kind") >= 0.99
    for rows in confusion.values():
        assert sum(rows[NONE].values()) == NUM // 2
        assert rows[NONE].get(NONE, 0) >= 0.99 * (NUM // 2)


@pytest.mark.parametrize("name", DAMAGE)
def test_no_way_of_damage_is_read_as_a_shape(name):
    start = list(DAMAGE).index(name)
    pictures = [damaged(start + i * len(DAMAGE), 64, seed=12) for i in range(40)]
    assert {each for each, _ in pictures} == {name}
    assert sum(read(picture) == UNREADABLE for _, picture in pictures) == 40


@pytest.mark.parametrize("side_px", [16, 64])
def test_slightly_blurred_and_noisy_pictures_keep_their_colour(side_px):
    rng = np.random.default_rng(13)
    right = 0
    for index in range(128):
        truth, picture = clean(index, side_px, seed=13)
        soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.02 * side_px)), dtype=float)
        noisy = np.clip(soft + rng.normal(0, 12, size=soft.shape), 0, 255).astype(np.uint8)
        reading = read(noisy)
        right += (reading.colour, reading.background) == (truth.colour, truth.background)
    assert right >= 0.98 * 128


def test_a_picture_and_its_array_read_the_same():
    truth, picture = clean(3, 64, seed=14)
    reading = read(picture)
    assert (reading.colour, reading.kind, reading.background) == tuple(truth)
    assert read(np.asarray(picture)) == reading


def test_kinds_do_not_depend_on_rotation():
    for index in range(0, 128, 5):
        truth, picture = clean(index, 128, seed=15)
        assert read(picture.transpose(Image.Transpose.ROTATE_90)).kind == truth.kind


def test_a_picture_of_sixteen_pixels_has_no_kind():
    assert read(clean(0, 16, seed=16)[1]).kind is None


def test_a_shape_of_an_unknown_kind_has_a_colour_but_no_kind():
    pixels = np.full((64, 64, 3), 240, dtype=np.uint8)
    pixels[28:36, 10:54] = (32, 60, 210)
    reading = read(pixels)
    assert (reading.colour, reading.kind, reading.background) == ("blue", None, "white")


def test_an_unknown_colour_is_none():
    pixels = np.full((64, 64, 3), 240, dtype=np.uint8)
    pixels[20:44, 20:44] = (128, 128, 0)
    assert read(pixels) == UNREADABLE
