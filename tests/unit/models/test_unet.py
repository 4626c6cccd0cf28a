import pytest
import torch
from pydantic import ValidationError

from pipeline.models.config import UNetConfig
from pipeline.models.unet import UNet


def tiny(**changes):
    values = {
        "channels": 16,
        "multipliers": (1, 2),
        "res_blocks": 1,
        "attention_levels": (1,),
        "head_width": 8,
        "norm_groups": 8,
    }
    return UNetConfig(**(values | changes))


def trained_like(model):
    """Zero-initialised layers hide the rest; give them values."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def test_a_fresh_network_says_zero():
    model = UNet(3, 3, tiny(), context_width=8)
    context = torch.randn(2, 5, 8)
    out = model(torch.randn(2, 3, 8, 8), torch.tensor([1, 2]), context=context)
    assert out.shape == (2, 3, 8, 8)
    assert not out.any()


@torch.no_grad()
def test_every_residual_branch_starts_as_identity():
    model = UNet(3, 3, tiny(), context_width=8)
    stage = model.mid[0]
    x = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(stage(x, torch.randn(2, 64), torch.randn(2, 5, 8), None), x)


@torch.no_grad()
@pytest.mark.parametrize("scale_shift", [True, False])
def test_step_embedding_and_context_matter(scale_shift):
    model = trained_like(UNet(3, 3, tiny(scale_shift=scale_shift), context_width=8))
    x, t, context = torch.randn(1, 3, 8, 8), torch.tensor([5]), torch.randn(1, 4, 8)
    emb = torch.randn(1, 64)
    base = model(x, t, emb, context)
    assert not torch.allclose(model(x, t + 500, emb, context), base, atol=1e-4)
    assert not torch.allclose(model(x, t, -emb, context), base, atol=1e-4)
    assert not torch.allclose(model(x, t, emb, -context), base, atol=1e-4)


@torch.no_grad()
def test_masked_context_is_not_read():
    model = trained_like(UNet(3, 3, tiny(), context_width=8))
    x, t, context = torch.randn(1, 3, 8, 8), torch.tensor([5]), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, False, False]])
    changed = context.clone()
    changed[:, 2:] = 50.0
    torch.testing.assert_close(
        model(x, t, None, changed, mask), model(x, t, None, context[:, :2], mask[:, :2])
    )


@torch.no_grad()
def test_without_attention_it_runs_at_any_size_its_levels_divide():
    model = UNet(6, 3, tiny(attention_levels=(), mid_attention=False))
    for side in (4, 12, 32):
        assert model(torch.randn(1, 6, side, side), torch.tensor([1])).shape[-1] == side
    assert not any("qkv" in name for name in model.state_dict())


@torch.no_grad()
def test_pixels_of_a_patch_are_channels_of_its_place():
    """The same weights on single pixels, each given its square's other pixels as channels."""
    patches = trained_like(UNet(3, 3, tiny(patch_px=2)))
    pixels = UNet(12, 12, tiny())
    pixels.load_state_dict(patches.state_dict())
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([5, 700])
    corners = [(row, column) for row in (0, 1) for column in (0, 1)]
    squares = torch.stack([x[..., row::2, column::2] for row, column in corners], dim=2)
    expected = pixels.eval()(squares.flatten(1, 2), t).unflatten(1, (3, 4))
    made = patches(x, t)
    for place, (row, column) in enumerate(corners):
        torch.testing.assert_close(made[..., row::2, column::2], expected[:, :, place])


def test_gradients_reach_every_parameter():
    model = trained_like(UNet(3, 6, tiny(), context_width=8))
    out = model(torch.randn(2, 3, 8, 8), torch.tensor([1, 2]), None, torch.randn(2, 4, 8))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_groups": 5}, "do not divide into 5 groups"),
        ({"head_width": 12}, "do not divide into heads of 12"),
        ({"attention_levels": (3,)}, "beyond 1"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        tiny(**changes)
