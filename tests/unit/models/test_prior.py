import pytest
import torch

from pipeline.models.config import ClipShape, OwnText, PriorConfig
from pipeline.models.layers import causal_mask, take_tokens, token_mask
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


def like(prior, **changes):
    """The same weights under other settings."""
    other = DiffusionPrior(prior.config.model_copy(update=changes)).eval()
    other.load_state_dict(prior.state_dict())
    return other


@torch.no_grad()
def test_padding_behind_all_tokens_gives_the_same_prediction(prior):
    z_txt, states, mask = conditions(3)
    mask = torch.arange(6)[None] < torch.tensor([[2], [6], [4]])
    given = (torch.randn(3, 8), torch.tensor([3, 700, 9]), z_txt, states, mask)
    moved = like(prior, padding="last")
    torch.testing.assert_close(moved(*given), prior(*given), atol=1e-5, rtol=1e-5)


def test_no_square_mask_is_built_where_padding_stands_last(prior, monkeypatch):
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None, is_causal=False):
        seen.append((attn_mask, is_causal))
        return original(q, k, v, attn_mask=attn_mask, is_causal=is_causal)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    like(prior, padding="last")(torch.randn(2, 8), torch.tensor([3, 700]), *conditions())
    *first, (last, is_causal) = seen
    assert first == [(None, True)]
    assert not is_causal
    assert last.shape == (2, 1, 1, 10)  # one query reads 6 + 4 tokens


@torch.no_grad()
@pytest.mark.parametrize("padding", ["masked", "last"])
def test_the_last_block_answers_for_the_query_as_if_it_computed_all_tokens(prior, padding):
    """Only the query's answer is read there: the others are spared."""
    block, seen = prior.blocks[-1], []
    z_txt, states, mask = conditions()
    given = (torch.randn(2, 8), torch.tensor([3, 700]), z_txt, states, mask)
    model = like(prior, padding=padding)
    model.blocks[-1].register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    model(*given)
    (x, _, query), answer = seen[0]
    whole = block(x, None if padding == "last" else causal_mask(readable(mask)))
    torch.testing.assert_close(answer, take_tokens(whole, query))


def readable(mask):
    return torch.cat([mask, mask.new_ones(len(mask), 4)], dim=1)


def test_the_scaled_space_is_the_papers(prior):
    scaled = like(prior, space="scaled")
    scaled.set_statistics(torch.full((8,), 3.0), torch.full((8,), 4.0))
    z_img = torch.randn(3, 8) * 5
    z = scaled.whiten(z_img)
    torch.testing.assert_close(z.norm(dim=-1), torch.full((3,), 17.2))
    back = scaled.unwhiten(z)
    torch.testing.assert_close(torch.cosine_similarity(back, z_img), torch.ones(3))
    torch.testing.assert_close(back.norm(dim=-1), torch.full((3,), (8 * 25.0) ** 0.5))


@torch.no_grad()
def test_it_may_read_tokens_of_its_own():
    torch.manual_seed(0)
    text = OwnText(
        type="own", vocabulary="bytes", context_length=9, width=24, layers=0, head_width=8
    )
    shape = ClipShape(embed_dim=8, text_width=12)
    config = PriorConfig(clip=shape, width=32, layers=1, head_width=16, text=text)
    own = DiffusionPrior(config).eval()
    given = (torch.randn(2, 8), torch.tensor([3, 700]), torch.randn(2, 8))
    found = []
    for first in (7, 8):
        tokens = torch.tensor([[257, first, 258, 0], [257, 9, 10, 258]])
        _, states, mask = own.text_encoder(tokens)
        found.append(own(*given, states, mask))
    assert not torch.allclose(found[0][0], found[1][0], atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1])
