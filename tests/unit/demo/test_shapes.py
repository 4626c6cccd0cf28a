from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo.shapes import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    Combination,
    extent,
    held_out,
    held_out_combinations,
    lettered,
    random_scene,
    render,
    single_scene,
)
from pipeline.draws import generator
from pipeline.images.lettering import Label


def test_held_out_combinations_show_everything_evenly():
    combinations = held_out_combinations()
    assert len(set(combinations)) == 16
    for field, names, times in (
        ("colour", COLOURS, 2),
        ("kind", KINDS, 4),
        ("background", BACKGROUNDS, 4),
    ):
        assert Counter(getattr(c, field) for c in combinations) == dict.fromkeys(names, times)


def test_eight_colours_four_kinds_and_four_backgrounds_share_no_name():
    assert (len(COLOURS), len(KINDS), len(BACKGROUNDS)) == (8, 4, 4)
    assert len({*COLOURS, *KINDS, *BACKGROUNDS}) == 16


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 10**9))
def test_a_random_scene_holds_nothing_that_is_held_out_and_fits_into_the_picture(position):
    scene = random_scene(generator(1, "test", position))
    assert 1 <= len(scene.shapes) <= 2
    for colour in (shape.colour for shape in scene.shapes):
        for kind in (shape.kind for shape in scene.shapes):
            assert not held_out(colour, kind, scene.background)
    for shape in scene.shapes:
        left, top, right, bottom = extent(shape.kind, shape.size)
        assert shape.x + left >= 0.015
        assert shape.x + right <= 0.985
        assert shape.y + top >= 0.015
        assert shape.y + bottom <= 0.985


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_two_shapes_never_touch(position):
    scene = random_scene(generator(2, "test", position))
    if len(scene.shapes) == 2:
        boxes = [np.array(extent(s.kind, s.size)) + np.array([s.x, s.y] * 2) for s in scene.shapes]
        gaps = [np.maximum(boxes[0][:2] - boxes[1][2:], boxes[1][:2] - boxes[0][2:])]
        assert np.max(gaps) > 0.02


def test_random_scenes_show_every_combination_that_is_not_held_out():
    seen = Counter(
        combination
        for position in range(4000)
        for combination in random_scene(generator(3, "test", position)).combinations
    )
    assert len(seen) == 8 * 4 * 4 - 16


@pytest.mark.parametrize("side_px", [16, 64, 320, 400])
def test_equal_scenes_give_equal_pixels_of_the_wanted_side(side_px):
    scene = random_scene(generator(4, "test", 0))
    picture = render(scene, side_px)
    assert picture.size == (side_px, side_px)
    assert picture.mode == "RGB"
    assert picture.tobytes() == render(scene, side_px).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_centre_of_a_rendered_shape_has_its_colour_and_the_corner_the_background(kind):
    scene = single_scene(Combination("blue", kind, "white"), generator(5, "test", 0))
    pixels = np.asarray(render(scene), dtype=int)
    shape = scene.shapes[0]
    centre = pixels[round(shape.y * 320), round(shape.x * 320)]
    assert np.abs(centre - COLOURS["blue"]).max() < 25
    assert np.abs(pixels[0, 0] - BACKGROUNDS["white"]).max() < 12


def test_a_shape_has_an_outline_darker_than_its_inside():
    scene = single_scene(Combination("red", "square", "white"), generator(6, "test", 0))
    shape = scene.shapes[0]
    row = np.asarray(render(scene), dtype=int)[round(shape.y * 320), :, 0]
    edge = round((shape.x + extent("square", shape.size)[0]) * 320)
    assert row[edge - 1 : edge + 4].min() < 0.7 * row[round(shape.x * 320)]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**9))
def test_a_label_lies_about_the_middle_and_changes_nothing_else(position):
    rng = generator(7, "test", position)
    below = random_scene(rng)
    scene = lettered(below, rng)
    assert scene.shapes in ((), below.shapes)
    bare = np.asarray(render(replace(scene, label=None)), dtype=int)
    rows, columns = np.nonzero((np.asarray(render(scene), dtype=int) != bare).any(axis=2))
    assert 0.02 * 320 < columns.min() < 160 < columns.max() < 0.98 * 320
    assert (rows.max() - rows.min()) / 320 == pytest.approx(scene.label.height, abs=0.01)
    assert 0.2 * 320 < rows.min() < rows.max() < 0.8 * 320


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_no_word_makes_a_held_out_combination_with_what_is_below_it(position):
    rng = generator(8, "test", position)
    scene = lettered(random_scene(rng), rng)
    colours = {scene.label.word, *(shape.colour for shape in scene.shapes)}
    kinds = {scene.label.word, *(shape.kind for shape in scene.shapes)}
    assert not any(held_out(c, k, scene.background) for c in colours for k in kinds)


def test_every_word_is_written_and_no_two_look_alike_where_clip_reads_them():
    scenes = (random_scene(generator(9, "test", n)) for n in range(400))
    drawn = [lettered(scene, generator(10, "test", n)) for n, scene in enumerate(scenes)]
    assert {scene.label.word for scene in drawn} == {*COLOURS, *KINDS}
    plain = random_scene(generator(11, "test", 0))
    signs = [
        np.asarray(render(replace(plain, shapes=(), label=Label(word)), 64), dtype=float)
        for word in (*COLOURS, *KINDS)
    ]
    apart = [np.abs(a - b).max() for n, a in enumerate(signs) for b in signs[:n]]
    assert min(apart) > 60
