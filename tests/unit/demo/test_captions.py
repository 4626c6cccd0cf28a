from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo.captions import (
    PAIR_TEMPLATES,
    SINGLE_TEMPLATES,
    caption,
    held_out_prompts,
    mentions_held_out,
    named,
    reworded,
)
from pipeline.demo.shapes import (
    Scene,
    Shape,
    held_out,
    held_out_combinations,
    lettered,
    random_scene,
)
from pipeline.draws import generator


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 10**9))
def test_a_caption_names_what_its_scene_shows_and_nothing_else(position):
    rng = generator(1, "test", position)
    scene = random_scene(rng)
    colours, kinds, backgrounds = named(caption(scene, rng))
    assert colours == {shape.colour for shape in scene.shapes}
    assert kinds == {shape.kind for shape in scene.shapes}
    assert backgrounds == {scene.background}


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_a_caption_of_letters_says_the_word_and_no_shape(position):
    """So it is never taken for a caption of one shape, which names all three."""
    rng = generator(3, "test", position)
    scene = lettered(random_scene(rng), rng)
    text = caption(scene, rng)
    colours, kinds, backgrounds = named(text)
    assert colours | kinds == {scene.label.word}
    assert backgrounds <= {scene.background}
    assert not mentions_held_out(text)


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_no_training_caption_mentions_a_held_out_combination(position):
    rng = generator(2, "test", position)
    assert not mentions_held_out(caption(random_scene(rng), rng))


def test_a_held_out_combination_is_noticed_in_any_word_order():
    assert held_out("red", "circle", "grey")
    assert mentions_held_out("on Grey, a CIRCLE of red")
    assert not mentions_held_out("a red circle on white")
    assert not mentions_held_out("desktop wallpaper 7")


def test_english_is_varied():
    assert min(len(SINGLE_TEMPLATES), len(PAIR_TEMPLATES)) >= 6
    scene = Scene("white", (Shape("orange", "square", "small", 0.2, 0.5),), 0.0)
    texts = {caption(scene, generator(3, "test", i)) for i in range(200)}
    assert len(texts) == len(SINGLE_TEMPLATES)
    assert not any("a orange" in text for text in texts)


@pytest.mark.parametrize(
    ("second", "word"),
    [
        ((0.8, 0.5), "left of"),
        ((0.2, 0.5), "right of"),
        ((0.5, 0.8), "above"),
        ((0.5, 0.2), "below"),
    ],
)
def test_a_pair_says_where_the_first_shape_lies(second, word):
    shapes = (Shape("red", "star", "small", 0.5, 0.5), Shape("pink", "star", "small", *second))
    texts = {caption(Scene("grey", shapes, 0.0), generator(4, "test", i)) for i in range(100)}
    relations = Counter(
        r for r in ("left of", "right of", "above", "below") for t in texts if r in t
    )
    assert set(relations) == {word}


def test_held_out_prompts_are_distinct_even_and_true():
    prompts = held_out_prompts(256, seed=5)
    assert len({text for text, _ in prompts}) == 256
    assert Counter(truth for _, truth in prompts) == dict.fromkeys(held_out_combinations(), 16)
    for text, truth in prompts:
        assert named(text) == ({truth.colour}, {truth.kind}, {truth.background})
        assert mentions_held_out(text)
    assert prompts == held_out_prompts(256, seed=5)
    assert prompts != held_out_prompts(256, seed=6)


def test_more_prompts_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="distinct"):
        held_out_prompts(10_000, seed=1)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("red", "orange", "an orange circle on a grey background"),
        ("red", "blue", "a blue circle on a grey background"),
        ("grey", "brown", "a red circle on a brown background"),
    ],
)
def test_a_caption_is_reworded_article_and_all_and_back(old, new, text):
    before = "a red circle on a grey background"
    assert reworded(before, old, new) == text
    assert reworded(text, new, old) == before


def test_other_words_that_hold_the_word_stay():
    assert reworded("a red circle, hundred", "red", "blue") == "a blue circle, hundred"
