import pytest
import torch
from safetensors.torch import load_file

from pipeline.training.config import TrainConfig
from pipeline.training.loop import train_loop
from pipeline.training.sam import at_the_worst_nearby
from tests.synthetic import loop_settings, make_dataset, train_config


def quadratic(x, y):
    return 3 * (x**2).sum() + (y**2).sum()


def test_the_gradient_is_that_of_the_highest_point_at_the_radius():
    x = torch.tensor([1.0, 0.0], requires_grad=True)
    y = torch.tensor([2.0], requires_grad=True)
    before = [x.detach().clone(), y.detach().clone()]
    with at_the_worst_nearby([x, y], quadratic(x, y), 0.5):
        gradient = torch.tensor([6.0, 0.0, 4.0])
        step = 0.5 * gradient / gradient.norm()
        torch.testing.assert_close(torch.cat([x, y]), torch.tensor([1.0, 0.0, 2.0]) + step)
        quadratic(x, y).backward()
    torch.testing.assert_close(x.grad, 6 * (before[0] + step[:2]))
    torch.testing.assert_close(y.grad, 2 * (before[1] + step[2:]))
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_flat_losses_and_unreached_parameters_move_nothing():
    x, unused = torch.zeros(2, requires_grad=True), torch.ones(3, requires_grad=True)
    with at_the_worst_nearby([x, unused], (x**2).sum(), 0.1):
        assert not x.any()
        assert torch.equal(unused, torch.ones(3))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def weights(dataset, uri, **changes):
    settings = loop_settings(dataset, uri, config=train_config(**changes))
    train_loop(settings)
    return load_file(f"{settings.uri}/weights.safetensors")


def test_a_small_radius_trains_almost_as_none_and_a_large_one_does_not(dataset, tmp_path):
    plain = weights(dataset, tmp_path / "plain")
    near = weights(dataset, tmp_path / "near", sam_rho=1e-6)
    far = weights(dataset, tmp_path / "far", sam_rho=0.5)
    for name, value in plain.items():
        torch.testing.assert_close(near[name], value, atol=2e-3, rtol=0)
    assert any((far[name] - value).abs().max() > 0.01 for name, value in plain.items())


def test_clip_perturbs_whole_workers_and_says_how_many_it_needs():
    clip = {
        "type": "clip",
        "model": {
            "embed_dim": 8,
            "vision": {"image_px": 8, "patch_px": 4, "width": 8, "layers": 1, "heads": 1},
            "text": {"width": 8, "layers": 1, "heads": 1},
        },
    }
    values = train_config().model_dump() | {"task": clip, "sam_rho": 0.1}
    with pytest.raises(ValueError, match="train CLIP with 2 workers"):
        TrainConfig.model_validate(values)
    values["execution"] |= {"num_workers": 2}
    assert TrainConfig.model_validate(values).sam_rho == 0.1
