"""A seeded kill on every push; the claim is ``python -m tests.chaos --all``."""

import pytest

from tests.chaos.kills import draw, points, strike, undisturbed

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
