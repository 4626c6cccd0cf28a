import pytest
import torch
from pydantic import ValidationError

from pipeline.models.config import AutoregressivePriorConfig, ClipShape, OwnText
from pipeline.models.presets import build_autoregressive_prior

COMPONENTS = 5
SHAPE = ClipShape(embed_dim=8, text_width=12)


def config(**changes):
    values = {"width": 32, "layers": 2, "head_width": 16, "prefix_tokens": 6, "num_buckets": 7}
    return AutoregressivePriorConfig(clip=SHAPE, dot_buckets=4, **(values | changes))


@pytest.fixture
def prior():
    torch.manual_seed(0)
    made = build_autoregressive_prior(config(), COMPONENTS)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    codes = made.codes
    codes.components.copy_(torch.linalg.qr(torch.randn(8, 8)).Q[:COMPONENTS])
    codes.edges.copy_(torch.linspace(-1, 1, 6).expand(COMPONENTS, -1))
    codes.centres.copy_(torch.linspace(-1.2, 1.2, 7).expand(COMPONENTS, -1))
    return made.eval()


def conditions(batch=3, token=6):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(token)[None] < torch.tensor([4, 2, 6])[:batch, None]
    return (
        torch.randn(batch, 8, generator=generator),
        torch.randn(batch, token, 12, generator=generator),
        mask,
    )


def some_codes(batch=3):
    return torch.randint(7, (batch, COMPONENTS), generator=torch.Generator().manual_seed(2))


DOT = torch.tensor([0, 3, 1])


@torch.no_grad()
def test_buckets_start_like_their_neighbours_and_at_their_scale():
    torch.manual_seed(0)
    made = build_autoregressive_prior(config(num_buckets=64), COMPONENTS)
    for table, std in ((made.code_embedding.weight, 0.1), (made.out.weight, 32**-0.5)):
        near, far = (table[1:] - table[:-1]).norm(dim=1), (table[32:] - table[:32]).norm(dim=1)
        assert near.mean() < 0.5 * far.mean()
        assert table.std().item() == pytest.approx(std, rel=1e-5)
        assert table.mean(dim=0).abs().max() < 1e-6


@torch.no_grad()
def test_a_code_is_predicted_from_those_before_it_alone(prior):
    codes = some_codes()
    expected = prior(codes, DOT, *conditions())
    assert expected.shape == (3, COMPONENTS, 7)
    for changed in range(COMPONENTS):
        other = codes.clone()
        other[:, changed] = (other[:, changed] + 1) % 7
        found = prior(other, DOT, *conditions())
        torch.testing.assert_close(found[:, : changed + 1], expected[:, : changed + 1])
        if changed + 1 < COMPONENTS:
            assert not torch.allclose(found[:, changed + 1], expected[:, changed + 1], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("which", ["dot", "z_txt", "states"])
def test_every_condition_matters(prior, which):
    z_txt, states, mask = conditions()
    expected = prior(some_codes(), DOT, z_txt, states, mask)
    changed = {
        "dot": (DOT.flip(0), z_txt, states),
        "z_txt": (DOT, z_txt + 1, states),
        "states": (DOT, z_txt, states.flip(1)),
    }[which]
    assert not torch.allclose(prior(some_codes(), *changed, mask), expected, atol=1e-4)


@torch.no_grad()
def test_padding_is_not_read_and_may_be_cut(prior):
    z_txt, states, mask = (part[:2] for part in conditions())
    codes, dot = some_codes(2), DOT[:2]
    expected = prior(codes, dot, z_txt, states, mask)
    changed = torch.where(mask[:, :, None], states, torch.full_like(states, 100.0))
    torch.testing.assert_close(prior(codes, dot, z_txt, changed, mask), expected)
    cut = prior(codes, dot, z_txt, states[:, :4], mask[:, :4])
    torch.testing.assert_close(cut, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_remembered_keys_and_values_give_the_logits_of_the_whole(prior):
    """The likeliest code of each step, sampled with memory, is the likeliest of a full pass."""
    z_txt, states, mask = conditions()
    uniform = torch.full((3, 1 + COMPONENTS), 0.4)
    z_img = prior.sample(uniform, z_txt, states, mask, temperature=0.0)
    codes = prior.codes.encode(z_img)
    dot = prior.codes.upper_dot_code(uniform[:, 0])
    torch.testing.assert_close(prior(codes, dot, z_txt, states, mask).argmax(dim=-1), codes)


@torch.no_grad()
def test_samples_follow_the_models_probabilities(prior):
    """Of many draws the first code's shares are the softmax, averaged over the two upper dots."""
    draws = 4000
    z_txt, states, mask = (part[:1].expand(draws, *part.shape[1:]) for part in conditions())
    uniform = torch.rand(draws, 1 + COMPONENTS, generator=torch.Generator().manual_seed(3))
    codes = prior.codes.encode(prior.sample(uniform, z_txt, states, mask))
    found = torch.bincount(codes[:, 0], minlength=7) / draws
    few = [part[:2] for part in (z_txt, states, mask)]
    logits = prior(some_codes(2), torch.tensor([2, 3]), *few)[:, 0]
    torch.testing.assert_close(found, logits.softmax(dim=-1).mean(dim=0), atol=0.03, rtol=0)


@torch.no_grad()
def test_a_sample_is_the_same_in_any_batch(prior):
    z_txt, states, mask = conditions()
    uniform = torch.rand(3, 1 + COMPONENTS, generator=torch.Generator().manual_seed(3))
    together = prior.sample(uniform, z_txt, states, mask)
    for row in range(3):
        one = slice(row, row + 1)
        alone = prior.sample(uniform[one], z_txt[one], states[one], mask[one])
        torch.testing.assert_close(alone, together[one])


@torch.no_grad()
def test_guidance_of_one_is_none_and_more_moves_away(prior):
    z_txt, states, mask = conditions()
    uniform = torch.full((3, 1 + COMPONENTS), 0.5)
    plain = prior.sample(uniform, z_txt, states, mask)
    both = [torch.cat([part, part.flip(0)]) for part in (z_txt, states, mask)]
    one = prior.sample(uniform, *both, guidance_scale=1.0)
    more = prior.sample(uniform, *both, guidance_scale=8.0)
    torch.testing.assert_close(one, plain)
    assert not torch.allclose(more, plain)


@torch.no_grad()
def test_long_captions_are_cut_to_the_prefix():
    torch.manual_seed(0)
    prior = build_autoregressive_prior(config(prefix_tokens=3), COMPONENTS).eval()
    z_txt, states, mask = conditions()
    short = prior(some_codes(), DOT, z_txt, states[:, :3], mask[:, :3])
    torch.testing.assert_close(prior(some_codes(), DOT, z_txt, states, mask), short)


def test_it_may_read_tokens_of_its_own():
    own = OwnText(
        type="own", vocabulary="bytes", context_length=10, width=16, layers=1, head_width=16
    )
    prior = build_autoregressive_prior(config(text=own), COMPONENTS)
    _, states, mask = prior.text_encoder(torch.tensor([[257, 5, 258, 0], [257, 7, 9, 258]]))
    z_txt = torch.randn(2, 8)
    logits = prior(some_codes(2), DOT[:2], z_txt, states, mask)
    logits.square().mean().backward()
    assert prior.text_encoder.embedding.weight.grad[5].any()


def test_an_odd_number_of_dots_is_refused():
    with pytest.raises(ValidationError, match="dot_buckets=5 is odd"):
        AutoregressivePriorConfig(clip=SHAPE, width=16, layers=1, head_width=16, dot_buckets=5)
