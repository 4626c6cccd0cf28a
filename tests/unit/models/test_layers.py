import pytest
import torch
from torch import nn

from pipeline.models.config import UNetConfig
from pipeline.models.layers import CausalBlock, GroupNorm32, LayerNorm32, keep_only_inputs
from pipeline.models.presets import BLOCKS
from pipeline.models.unet import UNet


def block():
    torch.manual_seed(0)
    return CausalBlock(16, 8).eval()


@torch.no_grad()
def test_tokens_one_by_one_give_what_all_at_once_give():
    model, x = block(), torch.randn(2, 5, 16)
    known = model.attention.remember(2, 5, x)
    parts = []
    for start, end in ((0, 2), (2, 3), (3, 5)):
        mask = torch.ones(end - start, end, dtype=torch.bool).tril(diagonal=start)
        parts.append(model.extend(x[:, start:end], mask.expand(2, 1, -1, -1), known))
    torch.testing.assert_close(torch.cat(parts, dim=1), model(x, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", [LayerNorm32(32), GroupNorm32(4, 32)])
def test_norms_compute_in_float32(norm):
    """In bfloat16 a large mean would swallow the deviations."""
    x = (1000 + torch.randn(4, 32, generator=torch.Generator().manual_seed(0))).bfloat16()
    found = norm.bfloat16()(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), norm.float()(x.float()), atol=0.02, rtol=0.02)


def gradients(model, x):
    torch.manual_seed(7)  # dropout
    out = model(x, torch.tensor([1, 2]))
    out.square().mean().backward()
    return out.detach(), [p.grad.clone() for p in model.parameters()]


def test_activation_checkpointing_changes_no_gradient_and_no_name():
    config = UNetConfig(
        channels=8, multipliers=(1, 2), res_blocks=1, head_width=8, norm_groups=4, dropout=0.3,
        attention_levels=(1,),
    )  # fmt: skip
    torch.manual_seed(0)
    plain, kept = UNet(3, 3, config), UNet(3, 3, config)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.1)
    kept.load_state_dict(plain.state_dict())
    assert keep_only_inputs(kept, BLOCKS) == len(plain.down) + len(plain.mid) + len(plain.up)
    assert list(kept.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 8, 8)
    out, expected = gradients(plain, x)
    again, found = gradients(kept, x)
    torch.testing.assert_close(again, out, rtol=0, atol=0)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_activation_checkpointing_keeps_less():
    def saved(checkpointed):
        model = UNet(
            3,
            3,
            UNetConfig(channels=8, multipliers=(1,), res_blocks=4, head_width=8, norm_groups=4),
        )
        if checkpointed:
            keep_only_inputs(model, BLOCKS)
        num_bytes = 0

        def count(tensor):
            nonlocal num_bytes
            num_bytes += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(torch.randn(2, 3, 16, 16), torch.tensor([1, 2]))
        return num_bytes

    assert saved(True) < 0.4 * saved(False)
