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


def test_published_state_has_every_key_of_the_model():
    model, average = make()
    published = average.published(model)
    assert set(published) == set(model.state_dict())
    model.load_state_dict(published)
