import math

import pytest

from pipeline.diffusion.schedule import (
    alpha_bar,
    cosine_alpha_bar,
    linear_alpha_bar,
    strided_steps,
)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_signal_decreases_from_almost_one_to_almost_nothing(name):
    values = alpha_bar(name, 1000)
    assert (values.diff() < 0).all()
    assert values[0] > 0.999
    assert 0 < values[-1] < 1e-4


def test_cosine_follows_its_formula_where_betas_are_not_clipped():
    values = cosine_alpha_bar(1000)
    for step in (0, 250, 500, 900):
        expected = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (step + 1, 0)]
        assert values[step].item() == pytest.approx(expected[0] / expected[1], rel=1e-5)


def test_the_last_cosine_beta_is_clipped():
    values = cosine_alpha_bar(1000).double()
    assert (1 - values[-1] / values[-2]).item() == pytest.approx(0.999, rel=1e-4)


def test_linear_multiplies_the_papers_betas():
    values = linear_alpha_bar(1000)
    assert values[0].item() == pytest.approx(1 - 1e-4)
    assert values[-1].item() == pytest.approx(4.0358e-5, rel=1e-3)


@pytest.mark.parametrize("count", [1, 2, 27, 1000])
def test_strided_steps_start_with_the_most_noise_and_reach_the_least(count):
    steps = strided_steps(1000, count)
    assert len(steps) == count
    assert steps[0] == 999
    assert count == 1 or steps[-1] == 0
    assert (steps.diff() < 0).all()
