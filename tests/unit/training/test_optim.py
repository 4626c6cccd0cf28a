"""AdamW follows its equations, clips, and leaves everything alone on a bad gradient."""

import math

import pytest
import torch
from torch import nn

from pipeline.training.optim import (
    adamw,
    gradient_norm,
    learning_rate,
    masked_step,
    optimizer_state,
    set_learning_rate,
)


def make(weight_decay=0.1):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, adamw(model, betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay)


def step(model, optimizer, *, bad=0.0, clip=None, rate=0.01):
    gradients = [parameter.grad for parameter in model.parameters()]
    norm = gradient_norm(gradients)
    set_learning_rate(optimizer, rate)
    masked_step(optimizer, norm, torch.tensor(bad), clip)
    return norm


def test_first_step_moves_by_the_rate_against_the_sign_and_decays_matrices_only():
    model, optimizer = make()
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    model.weight.grad, model.bias.grad = torch.full((2, 3), 2.0), torch.full((2,), -3.0)
    step(model, optimizer)
    assert torch.allclose(model.weight, weight * (1 - 0.01 * 0.1) - 0.01, atol=1e-6)
    assert torch.allclose(model.bias, bias + 0.01, atol=1e-6)


def test_clipping_equals_dividing_the_gradient_by_hand():
    clipped, optimizer = make()
    divided, other = make()
    for scale in (8.0, 0.01):
        gradient = torch.arange(6.0).view(2, 3) * scale
        norm = float(gradient.norm())
        clipped.weight.grad, clipped.bias.grad = gradient.clone(), torch.zeros(2)
        divided.weight.grad = gradient / max(1.0, norm / 1.5)
        divided.bias.grad = torch.zeros(2)
        assert float(step(clipped, optimizer, clip=1.5)) == pytest.approx(norm)
        step(divided, other)
    assert torch.allclose(clipped.weight, divided.weight, atol=1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_masked_step_changes_no_bit(value):
    model, optimizer = make()
    model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.ones(2)
    step(model, optimizer)
    before = {k: v.clone() for k, v in optimizer_state(model, optimizer).items()}
    weight = model.weight.detach().clone()
    model.weight.grad = torch.full((2, 3), value)
    norm = step(model, optimizer, bad=1.0, clip=1.0)
    assert not torch.isfinite(norm)
    assert torch.equal(model.weight, weight)
    for name, tensor in optimizer_state(model, optimizer).items():
        assert torch.equal(tensor, before[name]), name


def test_state_is_named_by_parameter_and_exists_before_the_first_step():
    names = set(optimizer_state(*make()))
    slots = ("step", "exp_avg", "exp_avg_sq")
    assert names == {f"{name}/{slot}" for name in ("weight", "bias") for slot in slots}


def test_learning_rate_rises_then_follows_half_a_cosine():
    course = {"peak": 2.0, "samples": 1_000, "warmup_samples": 100, "decay": "cosine"}
    assert learning_rate(0, **course) == pytest.approx(0.02)
    assert learning_rate(50, **course) == pytest.approx(1.02)
    assert learning_rate(100, **course) == pytest.approx(2.0)
    assert learning_rate(550, **course) == pytest.approx(1.0)
    assert learning_rate(1_000, **course) == pytest.approx(0.0)
    assert learning_rate(700, **{**course, "decay": "none"}) == 2.0
