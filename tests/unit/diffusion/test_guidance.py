import torch

from pipeline.diffusion.guidance import guide, guided


def test_scale_one_is_the_conditional_output():
    conditional, unconditional = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(guide(conditional, unconditional, 1.0), conditional)
    torch.testing.assert_close(guide(conditional, unconditional, 0.0), unconditional)


def test_guidance_moves_away_from_the_unconditional_output():
    moved = guide(torch.ones(1, 1), torch.zeros(1, 1), 3.0)
    assert moved.item() == 3.0


def test_both_halves_are_asked_in_one_call_and_variance_is_the_conditionals():
    calls = []

    def doubled(x_t, t):
        calls.append((len(x_t), t.tolist()))
        sign = torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None]
        return torch.cat([sign, 7 * sign], dim=1)

    out = guided(doubled, 2.0, event_channels=1)(torch.zeros(2, 1), torch.tensor([5, 6]))
    assert calls == [(4, [5, 6, 5, 6])]
    assert out.tolist() == [[3.0, 7.0], [3.0, 7.0]]
