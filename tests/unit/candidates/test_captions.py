import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.candidates.captions import are_repeated, caption_reasons
from pipeline.candidates.config import CaptionFilterConfig

CONFIG = CaptionFilterConfig(min_chars=5, min_words=2, max_repeats=3)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("a cat", None),
        ("a ca", "caption_too_short"),
        ("photograph", "caption_too_short"),
        ("ein Haus", None),
        ("猫 と 犬", None),
    ],
)
def test_captions_need_characters_and_words(caption, reason):
    assert caption_reasons(pa.array([caption, "a cat"]), CONFIG).to_pylist() == [reason, None]


WORDS = st.lists(st.sampled_from([*"aé猫 \t\u00a0\u2028\u3000\x1c", "word"]), max_size=9)


@given(st.lists(WORDS.map("".join), max_size=5))
def test_characters_and_words_are_pythons(captions):
    expected = [
        "caption_too_short" if len(caption) < 5 or len(caption.split()) < 2 else None
        for caption in captions
    ]
    column = pa.chunked_array([pa.array(captions, pa.string())])
    assert caption_reasons(column, CONFIG).to_pylist() == expected


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("one two", None),
        ("one two 345", None),
        ("one two 3456", "caption_too_long"),
        ("a b c d", "caption_too_long"),
        ("one", "caption_too_short"),
    ],
)
def test_captions_may_have_largest_numbers_too(caption, reason):
    config = CONFIG.model_copy(update={"max_chars": 11, "max_words": 3})
    captions = pa.chunked_array([pa.array([caption, "a cat"])])
    assert caption_reasons(captions, config).to_pylist() == [reason, None]


def test_a_caption_may_stand_on_as_many_pictures_as_configured():
    assert are_repeated(pa.array([3, 4]), CONFIG).to_pylist() == [False, True]
