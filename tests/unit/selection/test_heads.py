"""A head computes what its network computed, and one that does not fit is refused by name."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from pipeline.errors import ConfigError
from pipeline.selection.heads import check_head, read_head, write_head

DIM = 12


def layers_of(network):
    linear = [each for each in network if isinstance(each, nn.Linear)]
    return [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in linear]


@pytest.mark.parametrize(
    ("activation", "between"), [("none", nn.Identity), ("relu", nn.ReLU), ("gelu", nn.GELU)]
)
@pytest.mark.parametrize("scale", ["normalised", "raw"])
@pytest.mark.parametrize("output", ["none", "sigmoid"])
def test_a_head_is_the_network_it_was_made_of(tmp_path, activation, between, scale, output):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(DIM, 8), between(), nn.Linear(8, 1))
    uri = str(tmp_path / "head.safetensors")
    write_head(
        uri,
        layers_of(network),
        scale=scale,
        activation=activation,
        output=output,
        calibration="logit",
    )
    z_img = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float16)
    x = torch.from_numpy(z_img).float()
    expected = network(nn.functional.normalize(x) if scale == "normalised" else x)[:, 0]
    expected = torch.sigmoid(expected) if output == "sigmoid" else expected
    head = read_head(uri)
    np.testing.assert_allclose(head(z_img), expected.detach().numpy(), atol=1e-5)
    assert head(z_img).dtype == np.float32
    assert head.stated["calibration"] == "logit"


def linear(**changes):
    stated = {"scale": "raw", "activation": "none", "calibration": "1 to 10", **changes}
    return [(np.ones((1, DIM), np.float32), np.zeros(1, np.float32))], stated


def test_another_dimension_and_another_clip_are_refused(tmp_path):
    uri = str(tmp_path / "head.safetensors")
    layers, stated = linear(clip_sha256="a" * 64)
    write_head(uri, layers, **stated)
    check_head("score.heads.aesthetic", uri, DIM, "a" * 64)
    with pytest.raises(ConfigError, match=r"heads\.aesthetic: .* reads 12 .* have 768; use a head"):
        check_head("score.heads.aesthetic", uri, 768, "a" * 64)
    with pytest.raises(ConfigError, match=r"CLIP aaaa.*of bbbb.*embed with that one"):
        check_head("score.heads.aesthetic", uri, DIM, "b" * 64)


@pytest.mark.parametrize(
    ("tensors", "stated", "words"),
    [
        ({"layers.0.weight": (1, DIM)}, {}, "lacks layers.0.bias"),
        ({"weight": (1, DIM), "bias": (1,)}, {}, "lacks layers.0.weight"),
        ({"layers.0.weight": (1, 5), "layers.0.bias": (1,)}, {}, "do not take the 12 numbers"),
        ({"layers.0.weight": (2, DIM), "layers.0.bias": (2,)}, {}, "ends in 2 numbers"),
        ({}, {"scale": "unit"}, "scale='unit' is none of normalised, raw"),
        ({}, {"calibration": None}, "does not state calibration"),
    ],
)
def test_a_file_that_is_no_head_is_refused(tmp_path, tensors, stated, words):
    shapes = tensors or {"layers.0.weight": (1, DIM), "layers.0.bias": (1,)}
    metadata = {"dim": str(DIM), "scale": "raw", "activation": "none", "output": "none"}
    metadata |= {"calibration": "logit", **stated}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    path = tmp_path / "head.safetensors"
    save_file(arrays, path, {k: v for k, v in metadata.items() if v is not None})
    with pytest.raises(ConfigError, match=words):
        read_head(str(path))


def test_no_file_and_no_safetensors_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_head(str(tmp_path / "none"))
    (tmp_path / "head.pth").write_bytes(b"\x80\x02no safetensors")
    with pytest.raises(ConfigError, match="no readable safetensors"):
        read_head(str(tmp_path / "head.pth"))
