import pytest
import scipy.stats
import torch

from pipeline.diffusion.config import DiffusionConfig
from pipeline.diffusion.gaussian import spread
from pipeline.diffusion.sampling import (
    Process,
    clip_to_unit,
    ddim_invert,
    ddim_sample,
    ddpm_sample,
    dpm_solver_sample,
    dynamic_threshold,
    no_threshold,
    repaint_sample,
    seeded_noise,
)

MEAN, STD = 0.4, 0.3
SAMPLERS = {
    "ddim": lambda *a: ddim_sample(*a, threshold=no_threshold),
    "ddim_eta_1": lambda *a: ddim_sample(*a, eta=1.0, threshold=no_threshold),
    "ddpm_small": lambda *a: ddpm_sample(*a, threshold=no_threshold),
    "ddpm_large": lambda *a: ddpm_sample(*a, variance="fixed_large", threshold=no_threshold),
    "dpm_solver": lambda *a: dpm_solver_sample(*a, threshold=no_threshold),
}


def process(prediction="x_start", schedule="cosine"):
    return Process.of(DiffusionConfig(schedule=schedule, prediction=prediction))


def gaussian_denoiser(of):
    """The exact E[x_0 | x_t] of data drawn from N(MEAN, STD²), as x_start, eps or v."""

    def denoise(x_t, t):
        signal = spread(of.alpha_bar[t], x_t)
        noise_power = 1 - signal
        gain = signal.sqrt() * STD**2 / (signal * STD**2 + noise_power)
        x_start = MEAN + gain * (x_t - signal.sqrt() * MEAN)
        eps = (x_t - signal.sqrt() * x_start) / noise_power.sqrt()
        v = signal.sqrt() * eps - noise_power.sqrt() * x_start
        return {"x_start": x_start, "eps": eps, "v": v}[of.prediction]

    return denoise


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samples_of_a_known_gaussian_have_its_moments(name):
    of = process()
    noise = seeded_noise(range(4), (2000,))
    samples = SAMPLERS[name](gaussian_denoiser(of), of, noise, 400)
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("name", ["ddim", "dpm_solver"])
def test_kinds_of_prediction_lead_to_the_same_samples(name, schedule):
    noise = seeded_noise(range(2), (50,))
    made = [
        SAMPLERS[name](gaussian_denoiser(of), of, noise, 20)
        for of in (process(kind, schedule) for kind in ("x_start", "eps", "v"))
    ]
    torch.testing.assert_close(made[0], made[1], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(made[0], made[2], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "low", "high"), [("ddim", 1.8, 2.4), ("dpm_solver", 2.7, 4.5)])
def test_halving_the_step_shrinks_the_error_as_the_order_says(name, low, high):
    """For Gaussian data the way from x_T to x_0 is known: it keeps the standard score."""
    of, noise = process(schedule="linear"), seeded_noise(range(2), (100,))
    signal = of.alpha_bar[-1]
    score = (noise(0) - signal.sqrt() * MEAN) / (signal * STD**2 + 1 - signal).sqrt()
    exact = MEAN + STD * score
    errors = [
        (SAMPLERS[name](gaussian_denoiser(of), of, noise, steps) - exact).abs().mean().item()
        for steps in (40, 80)
    ]
    assert low < errors[0] / errors[1] < high


@pytest.mark.parametrize("name", ["ddim_eta_1", "ddpm_small"])
def test_a_sample_is_the_same_in_any_batch(name):
    of = process()
    together = SAMPLERS[name](gaussian_denoiser(of), of, seeded_noise([7, 8, 9], (3,)), 10)
    alone = SAMPLERS[name](gaussian_denoiser(of), of, seeded_noise([8], (3,)), 10)
    torch.testing.assert_close(together[1:2], alone)


def test_noise_differs_between_seeds_and_steps():
    noise = seeded_noise([1, 2], (4,))
    assert not torch.equal(noise(0)[0], noise(0)[1])
    assert not torch.equal(noise(0), noise(1))
    torch.testing.assert_close(noise(0), seeded_noise([1, 2], (4,))(0), rtol=0, atol=0)


def test_learned_variance_reads_the_further_channels():
    of = process("eps")
    exact = gaussian_denoiser(of)

    def denoise(fraction):
        return lambda x_t, t: torch.cat([exact(x_t, t), torch.full_like(x_t, fraction)], dim=1)

    noise = seeded_noise(range(2), (20,))
    for fraction, variance in ((-1.0, "fixed_small"), (1.0, "fixed_large")):
        learned = ddpm_sample(
            denoise(fraction), of, noise, 30, variance="learned_range", threshold=no_threshold
        )
        fixed = ddpm_sample(exact, of, noise, 30, variance=variance, threshold=no_threshold)
        torch.testing.assert_close(learned, fixed)


@pytest.mark.parametrize("sampler", [ddim_sample, ddpm_sample, dpm_solver_sample])
def test_pictures_stay_in_their_range(sampler):
    of = process()
    made = sampler(lambda x_t, t: 5 * x_t, of, seeded_noise([1], (3, 2, 2)), 5)
    assert made.abs().max() <= 1
    assert clip_to_unit(torch.tensor([[-3.0, 0.5]])).tolist() == [[-1.0, 0.5]]


def test_every_step_is_one_evaluation_from_most_to_least_noise():
    of, seen = process(), []

    def denoise(x_t, t):
        seen.append(int(t[0]))
        return x_t

    ddim_sample(denoise, of, seeded_noise([1], (2,)), 5)
    assert seen == [999, 749, 500, 250, 0]


MIXTURE = ((0.3, -0.6, 0.1), (0.7, 0.5, 0.2))
"""Weight, mean and deviation of each part."""


def mixture_denoiser(of):
    """The exact E[x_0 | x_t] of the mixture: its parts', weighted by how likely each made x_t."""

    def denoise(x_t, t):
        signal = spread(of.alpha_bar[t], x_t).double()
        likely, means = [], []
        for weight, mean, std in MIXTURE:
            power = signal * std**2 + 1 - signal
            off = x_t - signal.sqrt() * mean
            likely.append(weight * (-(off**2) / (2 * power)).exp() / power.sqrt())
            means.append(mean + signal.sqrt() * std**2 / power * off)
        shares = torch.stack(likely) / torch.stack(likely).sum(dim=0)
        return (shares * torch.stack(means)).sum(dim=0).float()

    return denoise


def mixture_cdf(x):
    return sum(w * scipy.stats.norm.cdf(x, mean, std) for w, mean, std in MIXTURE)


@pytest.mark.parametrize(("name", "steps"), [*((n, 125) for n in SAMPLERS), ("dpm_solver", 25)])
def test_samples_of_a_known_mixture_follow_its_distribution(name, steps):
    """Kolmogorov-Smirnov: over 8,000 samples 0.021 would be passed once in 500 without any error;
    the discretisation may take as much again."""
    of = process()
    samples = SAMPLERS[name](mixture_denoiser(of), of, seeded_noise(range(4), (2000,)), steps)
    found = scipy.stats.kstest(samples.flatten().numpy(), mixture_cdf)
    assert found.statistic < 0.04


@pytest.mark.parametrize("prediction", ["x_start", "eps", "v"])
@pytest.mark.parametrize(("steps", "error"), [(50, 0.05), (400, 0.007)])
def test_inverting_and_sampling_returns_the_input(prediction, steps, error):
    """Mean error over data of deviation 0.3, falling as 1/steps; stated per number of steps."""
    of = process(prediction, schedule="linear")
    denoise = gaussian_denoiser(of)
    x_start = MEAN + STD * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    x_t = ddim_invert(denoise, of, x_start, steps)
    assert x_t.std().item() == pytest.approx(1.0, abs=0.15)
    back = ddim_sample(denoise, of, lambda _: x_t, steps, threshold=no_threshold)
    assert (back - x_start).abs().mean().item() < error


def test_inversion_asks_once_per_step_from_least_noise_on():
    of, seen = process(), []

    def denoise(x_t, t):
        seen.append(int(t[0]))
        return x_t

    ddim_invert(denoise, of, torch.zeros(1, 2), 5)
    assert seen == [0, 0, 250, 500, 749]


def test_dynamic_thresholding_rescales_each_picture_by_its_own_range():
    threshold = dynamic_threshold(0.75)
    x = torch.tensor([[-4.0, 1.0, 2.0, -0.5], [0.1, -0.2, 0.3, 0.9]])
    # The third of four absolute values is 2: clip to it, divide by it. The second row is in range.
    torch.testing.assert_close(
        threshold(x), torch.tensor([[-1.0, 0.5, 1.0, -0.25], [0.1, -0.2, 0.3, 0.9]])
    )


RHO = 0.9


def pair_denoiser(of):
    """E[x_0 | x_t] of two standard normal numbers whose correlation is RHO."""
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]])

    def denoise(x_t, t):
        signal = of.alpha_bar[t[0]]
        gain = covariance @ torch.linalg.inv(signal * covariance + (1 - signal) * torch.eye(2))
        return signal.sqrt() * x_t @ gain.T

    return denoise


def painted_slope(num_visits):
    """How much of the known number shows in the painted one; RHO where they agree."""
    of, shape = process(), (1000, 2)
    known = torch.zeros(2, *shape)
    known[..., 0] = torch.linspace(-2, 2, 1000)
    is_known = torch.tensor([True, False]).expand(2, *shape)
    made = repaint_sample(
        pair_denoiser(of),
        of,
        seeded_noise(range(2), shape),
        20,
        known,
        is_known,
        num_visits=num_visits,
        threshold=no_threshold,
    )
    assert torch.equal(made[..., 0], known[..., 0])
    assert made[..., 1].std() > 0.2
    return float((known[..., 0] * made[..., 1]).sum() / (known[..., 0] ** 2).sum())


def test_what_is_painted_agrees_with_what_is_known_the_more_the_more_visits():
    once, often = painted_slope(1), painted_slope(8)
    assert abs(often - RHO) < 0.05
    assert abs(often - RHO) < abs(once - RHO)
