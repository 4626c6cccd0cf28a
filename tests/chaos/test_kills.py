"""A few seeded kills on every push; the claims are ``python -m tests.chaos`` with its options."""

import pytest

from tests.chaos.kills import draw, points, strike, undisturbed
from tests.chaos.training import draw_training_kills, strike_training, undisturbed_training

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_every_point_is_drawn_before_any_comes_twice():
    kills = draw(1, len(points()))
    assert sorted(kill.point for kill in kills) == points()
    assert len(points()) >= 13
    assert kills == draw(1, len(points()))


def test_a_killed_chain_ends_as_if_nothing_had_happened(tmp_path):
    expected = undisturbed(tmp_path / "undisturbed")
    assert len(expected) == 13
    for number, kill in enumerate(draw(seed=2, num=1)):
        outcome = strike(kill, tmp_path / str(number), expected)
        assert outcome.difference == "", str(kill)


def test_a_killed_training_is_the_training_that_nobody_killed(tmp_path):
    expected = undisturbed_training(tmp_path / "undisturbed")
    for number, kill in enumerate(draw_training_kills(seed=4, num=3)[1:]):
        outcome = strike_training(kill, tmp_path / str(number), expected)
        assert outcome.difference == "", str(kill)
