"""The Inception of Fréchet distances: its weights' layout, its pooling, TensorFlow's resizing."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pipeline.errors import CheckpointError, ConfigError
from pipeline.models.inception import DIM, NUM_CLASSES, FidInception, load_inception, resized


@pytest.fixture(scope="module")
def state():
    """Random weights under the published names: no batch counters, classes that nobody uses."""
    torch.manual_seed(0)
    found = {}
    for name, value in FidInception().network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            scale = (2 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.1
            found[name] = (torch.randn(value.shape) * scale).abs() + 0.5 * (value.ndim == 1)
            found[name] = found[name] if value.ndim == 1 else torch.randn(value.shape) * scale
    return found | {"fc.weight": torch.zeros(NUM_CLASSES, DIM), "fc.bias": torch.zeros(NUM_CLASSES)}


def test_published_weights_are_read_from_either_format(state, tmp_path):
    torch.save(state, tmp_path / "inception.pth")
    save_file(state, str(tmp_path / "inception.safetensors"))
    shown = torch.randint(0, 256, (1, 3, 20, 20), generator=torch.Generator().manual_seed(0))
    shown = shown.to(torch.uint8)
    found = [
        load_inception(tmp_path / f"inception.{each}")(shown) for each in ("pth", "safetensors")
    ]
    assert found[0].shape == (1, DIM)
    assert found[0].std() > 0
    torch.testing.assert_close(found[0], found[1])


def test_other_weights_are_refused(state, tmp_path):
    with pytest.raises(ConfigError, match="no such weights file"):
        load_inception(tmp_path / "none.pth")
    torch.save({**state, "fc.weight": torch.zeros(1000, DIM)}, tmp_path / "imagenet.pth")
    with pytest.raises(CheckpointError, match=r"fc.weight is \[1000, 2048\]"):
        load_inception(tmp_path / "imagenet.pth")
    less = {name: t for name, t in state.items() if not name.startswith("Mixed_7c.branch1x1")}
    torch.save(less, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"names differ: Mixed_7c.branch1x1"):
        load_inception(tmp_path / "less.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match="no file of tensors"):
        load_inception(tmp_path / "text.pth")


def test_means_count_no_padding_and_the_last_block_takes_maxima():
    network = FidInception().network
    ones = torch.ones(1, 1, 4, 4)
    assert (network.Mixed_5b.pool(ones) == 1).all()
    peak = torch.zeros(1, 1, 4, 4)
    peak[..., 1, 1] = 1
    assert network.Mixed_7c.pool(peak).sum() == 9
    assert network.Mixed_7b.pool(peak).sum() < 4


def test_resizing_starts_at_the_corner_and_is_bilinear():
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    larger = resized(ramp, 8)
    assert larger[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    torch.testing.assert_close(resized(ramp, 4), ramp)
    shown = torch.rand(2, 3, 5, 5)
    # With twice the side, every second pixel is the picture's own.
    torch.testing.assert_close(resized(shown, 10)[..., ::2, ::2], shown)
    torch.testing.assert_close(
        resized(shown, 10).mean(),
        F.interpolate(shown, (10, 10), mode="bilinear").mean(),
        atol=0.1,
        rtol=0,
    )
