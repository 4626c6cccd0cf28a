import pytest
import torch

from pipeline.diffusion.config import DiffusionConfig
from pipeline.diffusion.gaussian import spread, target, to_eps
from pipeline.diffusion.guidance import climbing, guide, guided
from pipeline.diffusion.sampling import Process, ddpm_sample, no_threshold, seeded_noise

SHIFT = torch.tensor([1.5, -0.5])


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


def standard_normal(of):
    """The best denoiser of standard normal data, in the process's own kind of output."""

    def denoise(x_t, t):
        signal = of.alpha_bar[t]
        x_start = spread(signal.sqrt(), x_t) * x_t
        return target(of.prediction, x_start, to_eps(x_start, x_t, signal), signal)

    return denoise


def log_weight(x_start):
    """Turns standard normal data into N(SHIFT, 1)."""
    return x_start @ SHIFT.to(x_start)


@pytest.mark.parametrize("prediction", ["eps", "x_start", "v"])
@pytest.mark.parametrize("is_inference", [True, False])
def test_climbing_a_log_probability_gives_the_posterior(prediction, is_inference):
    of = Process.of(DiffusionConfig(schedule="cosine", prediction=prediction))
    denoise = climbing(standard_normal(of), of, log_weight, 1.0)
    with torch.inference_mode(is_inference):
        made = ddpm_sample(
            denoise, of, seeded_noise(range(2), (2000, 2)), 100, threshold=no_threshold
        )
    rows = made.reshape(-1, 2)
    torch.testing.assert_close(rows.mean(dim=0), SHIFT, atol=0.05, rtol=0)
    torch.testing.assert_close(rows.std(dim=0), torch.ones(2), atol=0.05, rtol=0)


def test_a_scale_of_zero_moves_nothing_and_further_channels_stay():
    of = Process.of(DiffusionConfig(schedule="cosine", prediction="eps"))
    x_t, t = torch.randn(2, 2), torch.tensor([900, 100])

    def with_variance(x_t, t):
        return torch.cat([x_t / 2, 7 + 0 * x_t], dim=1)

    still = climbing(with_variance, of, log_weight, 0.0)(x_t, t)
    moved = climbing(with_variance, of, log_weight, 1.0)(x_t, t)
    torch.testing.assert_close(still, with_variance(x_t, t), atol=1e-4, rtol=1e-4)
    assert (moved[:, :2] - still[:, :2]).abs().amax() > 0.1
    assert (moved[:, 2:] == 7).all()
