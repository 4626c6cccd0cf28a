"""The average follows its recursion and lends itself to the model without a trace."""

import torch
from torch import nn

from pipeline.training.ema import WeightAverage


def make(decay=0.9):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    return model, WeightAverage(model, decay)


def test_average_follows_the_recursion_with_its_warm_up():
    model, average = make()
    expected = model[0].weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            model[0].weight += 0.1
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    assert torch.allclose(average.state()["0.weight"], expected, atol=1e-4)


def test_without_decay_the_average_is_the_model():
    model, average = make(decay=0.0)
    with torch.no_grad():
        model[0].weight += 1
    average.update(5)
    assert torch.equal(average.state()["0.weight"], model[0].weight)


def test_applied_shows_the_average_and_restores_every_bit():
    model, average = make()
    with torch.no_grad():
        model[0].weight.normal_()
    live = model[0].weight.detach().clone()
    with average.applied():
        assert torch.equal(model[0].weight, average.state()["0.weight"])
        assert not torch.equal(model[0].weight, live)
    assert torch.equal(model[0].weight, live)


def test_a_late_average_is_the_model_until_it_starts():
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9, start_step=5)
    expected = None
    for step in range(50):
        with torch.no_grad():
            model.weight += 0.1
        average.update(step)
        live = model.weight.detach().clone()
        if step <= 5:
            assert torch.equal(average.state()["weight"], live)
            with average.applied():
                assert torch.equal(model.weight, live)
            expected = live
        else:
            decay = min(0.9, (1 + step - 5) / (10 + step - 5))
            expected = decay * expected + (1 - decay) * live
            torch.testing.assert_close(average.state()["weight"], expected)


def test_a_restored_average_is_not_started_again():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9, start_step=5)
    saved = torch.full((2, 2), 7.0)
    average.state()["weight"].copy_(saved)
    average.resume(9)
    assert torch.equal(average.state()["weight"], saved)
    average.update(9)
    expected = 5 / 14 * saved + 9 / 14 * model.weight.detach()
    torch.testing.assert_close(average.state()["weight"], expected)
