import math

import pytest
import torch

from pipeline.diffusion.gaussian import q_sample
from pipeline.diffusion.losses import (
    gaussian_kl,
    picture_log_likelihood,
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
