import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.generation.config import UpsamplerSampling
from pipeline.generation.tiling import tiled, whole
from pipeline.models.config import UNetConfig, UpsamplerConfig
from pipeline.models.upsampler import Upsampler

SIDE, SCALE = 128, 4


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    unet = UNetConfig(
        channels=8, multipliers=(1, 2), res_blocks=1, mid_attention=False, norm_groups=1
    )
    made = Upsampler(UpsamplerConfig(low_px=SIDE // SCALE, high_px=SIDE, unet=unet)).eval()
    for name, parameter in made.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    return made


def inputs():
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    low_res = torch.rand(1, 3, SIDE // SCALE, SIDE // SCALE, generator=generator) * 2 - 1
    return x_t, torch.tensor([300]), low_res


class _PlainNorm(torch.nn.Module):
    """A fixed gain, which does not depend on what surrounds a pixel."""

    def forward(self, x):
        return 0.7 * x


@torch.no_grad()
def test_without_norms_tiles_give_the_whole_picture(model):
    """All that ties a pixel to far ones is gone: what is left must agree, seams included."""
    plain = Upsampler(model.config).eval()
    plain.load_state_dict(model.state_dict())
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, _PlainNorm())
    x_t, t, low_res = inputs()
    expected = whole(plain, low_res)(x_t, t)
    found = tiled(plain, low_res, 80, 40)(x_t, t)
    scale = expected.std().item()
    assert (found - expected).abs().max().item() < 0.02 * scale


@torch.no_grad()
def test_norms_of_tiles_of_even_pictures_differ_little(model):
    """Random pictures and weights: the mean difference away from borders, in deviations."""
    x_t, t, low_res = inputs()
    expected = whole(model, low_res)(x_t, t)
    found = tiled(model, low_res, 64, 32)(x_t, t)
    inner = slice(16, -16)
    error = (found - expected)[..., inner, inner].abs().mean() / expected.std()
    assert error.item() < 0.12


@torch.no_grad()
def test_the_network_never_sees_more_than_a_tile(model):
    seen = []
    handle = model.unet.conv_in.register_forward_pre_hook(lambda _, a: seen.append(a[0].shape[-1]))
    x_t, t, low_res = inputs()
    found = tiled(model, low_res, 64, 32)(x_t, t)
    handle.remove()
    assert found.shape == x_t.shape
    assert torch.isfinite(found).all()
    assert set(seen) == {64}
    assert len(seen) == 9


def test_tiles_off_the_networks_grid_are_refused(model):
    with pytest.raises(ConfigError, match="tile_px=66 is not a multiple of 4"):
        tiled(model, inputs()[2], 66, 16)
    with pytest.raises(ValueError, match="less than twice tile_overlap_px=32"):
        UpsamplerSampling(tile_px=48)
