import pytest

from pipeline.images.config import FilterConfig
from pipeline.images.filters import caption_reason, picture_reason, repeats_reason

CONFIG = FilterConfig(
    min_side_px=100,
    max_aspect_ratio=3.0,
    min_caption_chars=5,
    min_caption_words=2,
    max_caption_repeats=3,
)


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
    assert caption_reason(caption, CONFIG) == reason


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((100, 100), None),
        ((99, 300), "too_small"),
        ((300, 99), "too_small"),
        ((100, 300), None),
        ((300, 100), None),
        ((100, 301), "aspect_ratio"),
        ((602, 200), "aspect_ratio"),
        ((16, 900), "too_small"),
    ],
)
def test_pictures_need_a_side_and_a_shape(size, reason):
    assert picture_reason(*size, CONFIG) == reason


def test_a_caption_may_stand_on_as_many_pictures_as_configured():
    assert repeats_reason(3, CONFIG) is None
    assert repeats_reason(4, CONFIG) == "repeated_caption"
