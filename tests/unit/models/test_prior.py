import pytest
import torch

from pipeline.models.config import ClipShape, PriorConfig
from pipeline.models.layers import token_mask
from pipeline.models.prior import DiffusionPrior


@pytest.fixture
def prior():
    torch.manual_seed(0)
    config = PriorConfig(
        clip=ClipShape(embed_dim=8, text_width=12), width=32, layers=2, head_width=16
    )
    return DiffusionPrior(config).eval()


def conditions(batch=2, token=6):
    mask = torch.zeros(batch, token, dtype=torch.bool)
    mask[:, :4] = True
    return torch.randn(batch, 8), torch.randn(batch, token, 12), mask


@torch.no_grad()
def test_output_is_an_embedding_per_sample(prior):
    assert prior(torch.randn(2, 8), torch.tensor([0, 999]), *conditions()).shape == (2, 8)


@torch.no_grad()
def test_padding_is_not_read_whatever_it_holds(prior):
    z_t, t = torch.randn(2, 8), torch.tensor([3, 700])
    z_txt, states, mask = conditions()
    expected = prior(z_t, t, z_txt, states, mask)
    changed = states.clone()
    changed[:, 4:] = 100.0
    torch.testing.assert_close(prior(z_t, t, z_txt, changed, mask), expected)


@torch.no_grad()
def test_cut_padding_gives_the_same_prediction(prior):
    z_t, t = torch.randn(2, 8), torch.tensor([3, 700])
    z_txt, states, mask = conditions()
    expected = prior(z_t, t, z_txt, states, mask)
    torch.testing.assert_close(
        prior(z_t, t, z_txt, states[:, :4], mask[:, :4]), expected, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("which", ["z_t", "t", "z_txt", "states"])
def test_every_condition_matters(prior, which):
    torch.manual_seed(1)
    z_t, t = torch.randn(2, 8), torch.tensor([3, 700])
    z_txt, states, mask = conditions()
    expected = prior(z_t, t, z_txt, states, mask)
    changed = {
        "z_t": (z_t + 1, t, z_txt, states),
        "t": (z_t, t + 100, z_txt, states),
        "z_txt": (z_t, t, z_txt + 1, states),
        "states": (z_t, t, z_txt, states.flip(1)),
    }[which]
    assert not torch.allclose(prior(*changed, mask), expected, atol=1e-4)


def test_whitening_is_undone_and_stored(prior):
    prior.set_statistics(torch.arange(8.0), torch.arange(1.0, 9.0))
    z_img = torch.randn(3, 8)
    torch.testing.assert_close(prior.unwhiten(prior.whiten(z_img)), z_img)
    assert prior.whiten(torch.arange(8.0)[None]).abs().max() == 0
    assert {"z_mean", "z_std"} <= set(prior.state_dict())


def test_token_mask_ends_at_the_end_mark():
    tokens = torch.tensor([[49406, 5, 49407, 0, 0], [49406, 5, 6, 7, 49407]])
    assert token_mask(tokens).sum(dim=1).tolist() == [3, 5]
