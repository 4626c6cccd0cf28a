import pytest

from pipeline.images.config import FilterConfig
from pipeline.images.filters import picture_reason

CONFIG = FilterConfig(min_side_px=100, max_aspect_ratio=3.0)


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
