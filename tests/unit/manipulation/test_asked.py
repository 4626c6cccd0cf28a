import pytest

from pipeline.errors import ConfigError
from pipeline.manipulation.asked import OPTIONS, WAYS, dimensions_up_to, from_options

NONE = {name: None for names in OPTIONS.values() for name in names}
PLAIN = {**NONE, "picture": ["cat.png"], "key": [], "held_out": 0, "seed": 0, "steps": 100}


def asked(way, **options):
    return from_options({**PLAIN, "way": way, **options})


def test_every_way_has_defaults():
    for way in WAYS:
        needed = {"picture": ["a.png", "b.png"]}
        needed |= {"text": "a lion"} if way == "text_difference" else {}
        needed |= {"mask": ["mask.png"]} if way == "inpainting" else {}
        assert asked(way, **needed).way == way


def test_thetas_are_even_and_end_where_they_shall():
    found = asked("text_difference", text="a lion", theta=0.4, number=5).thetas
    assert found == pytest.approx((0, 0.1, 0.2, 0.3, 0.4))
    two = asked("interpolation", picture=["a", "b"], number=3).thetas
    assert two == (0, 0.5, 1)


def test_dimensions_are_powers_of_two_and_all():
    assert dimensions_up_to(64) == (1, 2, 4, 8, 16, 32, 64)
    assert dimensions_up_to(6) == (1, 2, 4, 6)
    assert dimensions_up_to(1) == (1,)


@pytest.mark.parametrize(
    ("way", "options", "words"),
    [
        ("text_difference", {"text": "a", "theta": 1.5}, "--theta 1.5: expected above 0"),
        ("text_difference", {"text": "a", "theta": float("nan")}, "--theta nan"),
        ("text_difference", {}, "needs --text"),
        (
            "text_difference",
            {"text": "a", "theta": 0.1, "number": 20},
            "steps of 0.0053 on the way",
        ),
        ("pca", {"dimensions": [4, 0]}, "--dimensions 0: a picture needs at least 1"),
        ("variations", {"eta": -0.1}, "--eta -0.1: expected 0 to 1"),
        ("variations", {"eta": 0.0}, "is its reconstruction"),
        ("variations", {"mask": ["m.png"]}, "--mask belongs to inpainting, not to variations"),
        ("reconstruction", {"theta": 0.5}, "--theta belongs to text_difference"),
        ("variations", {"number": 1}, "--number 1: expected 2 to 64"),
        ("reconstruction", {"picture": []}, "0 pictures were given"),
        ("reconstruction", {"held_out": 300}, "301 pictures were given, accepted are 1 to 256"),
        ("reconstruction", {"held_out": -1}, "--held-out -1: expected 0 or more"),
        ("reconstruction", {"steps": 1}, "--steps 1: expected 2 or more"),
        ("reconstruction", {"seed": -1}, "--seed -1: expected 0 or more"),
        ("interpolation", {}, "two by two, 1 were given"),
        ("inpainting", {}, "0 were given"),
        ("inpainting", {"mask": ["a", "b"]}, "2 were given"),
        ("inpainting", {"mask": ["a"], "visits": 0}, "--visits 0: expected 1 to 100"),
    ],
)
def test_what_cannot_be_is_refused_by_name(way, options, words):
    with pytest.raises(ConfigError) as error:
        asked(way, **options)
    assert words in str(error.value)
