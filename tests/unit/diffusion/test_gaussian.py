import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion.gaussian import (
    learned_log_variance,
    posterior,
    q_sample,
    signal_at,
    target,
    to_eps,
    to_x_start,
)
from pipeline.diffusion.schedule import cosine_alpha_bar

SCHEDULE = torch.tensor([0.9, 0.5, 0.1])


def test_q_sample_has_the_stated_moments():
    torch.manual_seed(0)
    x_start = torch.full((40_000, 1), 2.0)
    t = torch.full((40_000,), 1)
    x_t = q_sample(x_start, t, torch.randn_like(x_start), SCHEDULE)
    assert x_t.mean().item() == pytest.approx(2 * 0.5**0.5, abs=0.02)
    assert x_t.var().item() == pytest.approx(0.5, abs=0.02)


@settings(max_examples=40, deadline=None)
@given(step=st.integers(0, 900), seed=st.integers(0, 1000))
@pytest.mark.parametrize("prediction", ["eps", "x_start", "v"])
def test_every_target_leads_back_to_sample_and_noise(prediction, step, seed):
    generator = torch.Generator().manual_seed(seed)
    x_start = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    eps = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    schedule = cosine_alpha_bar(1000).double()
    t = torch.full((2,), step)
    x_t = q_sample(x_start, t, eps, schedule)
    signal = schedule[t]
    found = to_x_start(prediction, target(prediction, x_start, eps, signal), x_t, signal)
    torch.testing.assert_close(found, x_start)
    torch.testing.assert_close(to_eps(found, x_t, signal), eps)


def test_posterior_equals_three_steps_by_hand():
    signal, before = torch.tensor([0.5]), torch.tensor([0.9])
    mean, variance = posterior(torch.tensor([[1.0]]), torch.tensor([[2.0]]), signal, before)
    alpha, beta = 0.5 / 0.9, 1 - 0.5 / 0.9
    expected = 0.9**0.5 * beta / 0.5 * 1.0 + alpha**0.5 * 0.1 / 0.5 * 2.0
    assert mean.item() == pytest.approx(expected, rel=1e-5)
    assert variance.item() == pytest.approx(0.1 / 0.5 * beta, rel=1e-5)


def test_posterior_agrees_with_bayes_on_drawn_chains():
    """Regress x_s on x_t for a fixed x_0: slope, intercept and residual are the posterior's."""
    torch.manual_seed(0)
    signal, before, x_0 = 0.5, 0.9, 1.5
    x_s = before**0.5 * x_0 + (1 - before) ** 0.5 * torch.randn(200_000)
    ratio = signal / before
    x_t = ratio**0.5 * x_s + (1 - ratio) ** 0.5 * torch.randn(200_000)
    slope = torch.cov(torch.stack([x_s, x_t]))[0, 1] / x_t.var()
    at = torch.tensor([[0.0], [1.0]])
    mean, variance = posterior(
        torch.full((2, 1), x_0), at, torch.full((2,), signal), torch.full((2,), before)
    )
    assert (mean[1] - mean[0]).item() == pytest.approx(slope.item(), abs=0.01)
    intercept = x_s.mean() - slope * x_t.mean()
    assert mean[0].item() == pytest.approx(intercept.item(), abs=0.01)
    residual = (x_s - slope * x_t).var()
    assert variance[0].item() == pytest.approx(residual.item(), rel=0.02)


def test_the_last_step_returns_the_clean_sample():
    x_start = torch.randn(2, 3)
    mean, variance = posterior(x_start, torch.randn(2, 3), torch.full((2,), 0.9), torch.ones(2))
    torch.testing.assert_close(mean, x_start)
    assert not variance.any()


@pytest.mark.parametrize(("fraction", "expected"), [(-1.0, 0.2 * 4 / 9), (1.0, 4 / 9)])
def test_learned_variance_spans_posterior_to_beta(fraction, expected):
    signal, before = torch.tensor([0.5]), torch.tensor([0.9])
    log = learned_log_variance(torch.full((1, 1), fraction), signal, before)
    assert log.exp().item() == pytest.approx(expected, rel=1e-5)


def test_learned_variance_is_finite_at_the_last_step():
    log = learned_log_variance(torch.zeros(1, 1), torch.tensor([0.9]), torch.ones(1))
    assert log.exp().item() == pytest.approx(0.1, rel=1e-5)


def test_signal_before_the_first_step_is_one():
    signals = signal_at(SCHEDULE, torch.tensor([-1, 0, 2]))
    torch.testing.assert_close(signals, torch.tensor([1.0, 0.9, 0.1]))
