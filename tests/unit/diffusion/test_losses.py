import math

import pytest
import torch

from pipeline.diffusion.gaussian import (
    q_sample,
    signal_at,
    spread,
    to_eps,
    to_x_start,
)
from pipeline.diffusion.gaussian import target as target_of
from pipeline.diffusion.losses import (
    gaussian_kl,
    loss_by_step,
    min_snr_weight,
    picture_log_likelihood,
    prior_term,
    simple_loss,
    variational_term,
)
from pipeline.diffusion.schedule import cosine_alpha_bar


def test_simple_loss_is_the_mean_square_per_sample():
    output = torch.zeros(2, 3, 2, 2)
    target = torch.stack([torch.ones(3, 2, 2), torch.full((3, 2, 2), 2.0)])
    torch.testing.assert_close(simple_loss(output, target), torch.tensor([1.0, 4.0]))


def test_kl_of_equal_gaussians_is_zero_and_of_shifted_ones_known():
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    assert gaussian_kl(zero, zero, zero, zero).item() == 0
    assert gaussian_kl(zero, zero, one, zero).item() == pytest.approx(0.5)
    # KL(N(0,1) || N(0,e)) = (1 - 1 + 1/e)/2
    assert gaussian_kl(zero, zero, zero, one).item() == pytest.approx(0.5 / math.e, rel=1e-5)


def test_likelihoods_of_all_byte_values_sum_to_one():
    values = (torch.arange(256) / 127.5 - 1).reshape(256, 1)
    mean, log_variance = torch.full((256, 1), 0.3), torch.full((256, 1), -3.0)
    total = picture_log_likelihood(values, mean, log_variance).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-4)


def test_a_perfect_prediction_with_the_posteriors_variance_costs_nothing():
    torch.manual_seed(0)
    schedule = cosine_alpha_bar(1000)
    x_start, eps = torch.rand(4, 3, 2, 2) * 2 - 1, torch.randn(4, 3, 2, 2)
    t = torch.tensor([10, 100, 500, 900])
    x_t = q_sample(x_start, t, eps, schedule)
    small = torch.full_like(eps, -1.0)
    perfect = variational_term(x_start, x_t, eps, small, schedule[t], schedule[t - 1])
    assert perfect.abs().max().item() < 1e-3
    worse = variational_term(x_start, x_t, eps * 0.5, small, schedule[t], schedule[t - 1])
    assert (worse > perfect).all()


def test_the_last_term_is_a_likelihood_in_bits():
    schedule = cosine_alpha_bar(1000)
    x_start, eps = torch.zeros(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    t = torch.tensor([0])
    x_t = q_sample(x_start, t, eps, schedule)
    bits = variational_term(x_start, x_t, eps, torch.zeros_like(eps), schedule[t], torch.ones(1))
    std = (1 - schedule[0]).sqrt().item()
    expected = -math.log2(math.erf(1 / 255 / std / math.sqrt(2)))
    assert bits.item() == pytest.approx(expected, rel=1e-3)


def test_the_variance_output_gets_gradients():
    schedule = cosine_alpha_bar(1000)
    x_start, eps = torch.rand(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    t = torch.tensor([300])
    x_t = q_sample(x_start, t, eps, schedule)
    variance = torch.zeros_like(eps, requires_grad=True)
    variational_term(x_start, x_t, eps, variance, schedule[t], schedule[t - 1]).sum().backward()
    assert variance.grad.any()


def exact_reverse(x_t, signal, before, mean, std):
    """Noise and variance share that the exact reverse process of Gaussian data has."""
    signal, before = signal[:, None], before[:, None]
    power = signal * std**2 + 1 - signal
    x_start = mean + signal.sqrt() * std**2 / power * (x_t - signal.sqrt() * mean)
    eps = (x_t - signal.sqrt() * x_start) / (1 - signal).sqrt()
    beta = 1 - signal / before
    small = (1 - before) / (1 - signal) * beta
    of_start = before.sqrt() * beta / (1 - signal)
    variance = small + of_start**2 * std**2 * (1 - signal) / power
    share = (variance.log() - small.log()) / (beta.log() - small.log())
    last = before == 1  # there beta alone is left
    return eps, torch.where(last, torch.zeros(()), 2 * share - 1).expand_as(x_t)


@pytest.mark.parametrize("std", [0.1, 0.25])
def test_the_bound_of_gaussian_data_sums_to_its_entropy_in_bits(std):
    """With the exact reverse process the bound is tight: entropy plus the bits of a byte's bin."""
    torch.manual_seed(0)
    schedule, mean, rows = cosine_alpha_bar(1000), 0.1, 100
    bytes_ = ((mean + std * torch.randn(rows, 24) + 1) * 127.5).round().clamp(0, 255)
    x_start = bytes_ / 127.5 - 1
    last = prior_term(x_start, schedule[-1:].expand(rows)).mean().item()
    t = torch.arange(1000).repeat_interleave(rows)
    x_start = x_start.repeat(1000, 1)
    x_t = q_sample(x_start, t, torch.randn_like(x_start), schedule)
    signal, before = schedule[t], signal_at(schedule, t - 1)
    eps, variance = exact_reverse(x_t, signal, before, mean, std)
    terms = variational_term(x_start, x_t, eps, variance, signal, before)
    total = last + terms.sum().item() / rows
    entropy = 0.5 * math.log2(2 * math.pi * math.e * std**2) + math.log2(127.5)
    assert total == pytest.approx(entropy, abs=0.05)


def test_losses_by_step_average_to_the_loss_of_each_part():
    losses, t = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 499, 500, 999])
    found = loss_by_step(losses, t, 1000, num_parts=2)
    assert {name: value.item() for name, value in found.items()} == {
        "loss_t1_of_2": pytest.approx(1.5),
        "loss_t2_of_2": pytest.approx(3.5),
    }


def test_nothing_is_left_of_the_signal_at_the_last_step():
    x_start = torch.rand(3, 4) * 2 - 1
    assert prior_term(x_start, cosine_alpha_bar(1000)[-1:].expand(3)).max().item() < 1e-4
    assert prior_term(x_start, torch.full((3,), 0.5)).min().item() > 0.05


@pytest.mark.parametrize("prediction", ["eps", "x_start", "v"])
def test_min_snr_is_the_same_loss_whatever_is_predicted(prediction):
    """min(SNR, gamma) times the clean sample's error (Hang et al. 2023)."""
    torch.manual_seed(0)
    x_start, eps, other = torch.randn(3, 5, 2, 4, 4)
    signal = torch.tensor([0.02, 0.3, 0.5, 0.8, 0.99])
    x_t = spread(signal, x_start).sqrt() * x_start + (1 - spread(signal, x_start)).sqrt() * eps
    clean = x_start + 0.1 * other
    noise = to_eps(clean, x_t, signal)
    output = target_of(prediction, clean, noise, signal)
    assert torch.allclose(to_x_start(prediction, output, x_t, signal), clean, atol=1e-4)
    errors = simple_loss(output, target_of(prediction, x_start, eps, signal))
    expected = torch.tensor([0.02 / 0.98, 3 / 7, 1.0, 4.0, 5.0]) * simple_loss(clean, x_start)
    torch.testing.assert_close(min_snr_weight(prediction, signal, 5.0) * errors, expected)
