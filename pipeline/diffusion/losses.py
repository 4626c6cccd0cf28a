"""Training losses, one value per sample.

Dimension names: ``batch``; ``*event`` as in ``gaussian``. Pictures are in [-1, 1].
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.config import Prediction
from pipeline.diffusion.gaussian import learned_log_variance, posterior, spread, to_x_start


def per_sample_mean(values: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
    """Mean over everything but the batch, in float32."""
    return values.float().flatten(1).mean(dim=1)


def simple_loss(
    output: Float[Tensor, " batch *event"], target: Float[Tensor, " batch *event"]
) -> Float[Tensor, " batch"]:
    """Unweighted squared error.

    Source: Ho et al. 2020, Eq. 14 (for eps); the same form for x_start and v.
    """
    return per_sample_mean((output.float() - target.float()) ** 2)


def loss_by_step(
    losses: Float[Tensor, " batch"], t: Int[Tensor, " batch"], num_steps: int, num_parts: int = 4
) -> dict[str, Float[Tensor, ""]]:
    """Mean loss in each part of the process, the least noise first.

    The steps are drawn evenly, so a part holds 1/parts of the samples on average: the sum over a
    part's samples times ``num_parts``, over the whole batch, has the part's mean as its
    expectation, and such numbers may be averaged over batches of any size.

    Args:
        losses: Loss of each sample.
        t: Its diffusion step.
        num_steps: T.
        num_parts: Parts of equal length.
    """
    part = t * num_parts // num_steps
    detached = losses.detach() * num_parts
    return {
        f"loss_t{index + 1}_of_{num_parts}": (detached * (part == index)).mean()
        for index in range(num_parts)
    }


def velocity_weight(signal: Float[Tensor, " batch"], max_weight: float) -> Float[Tensor, " batch"]:
    r"""Weight that turns an error of the noise into one of v, capped: :math:`1/\bar\alpha_t`.

    Source: Salimans & Ho 2022, §4 ("SNR+1" weighting of x_0, which is 1/alpha_bar for eps).

    Args:
        signal: alpha_bar at each sample's step.
        max_weight: At least 1, which gives every step the weight 1 (L_simple).
    """
    return (1 / signal).clamp(max=max_weight)


def min_snr_weight(
    prediction: Prediction, signal: Float[Tensor, " batch"], gamma: float
) -> Float[Tensor, " batch"]:
    r"""Weight that turns a squared error into that of the clean sample times min(SNR, gamma).

    .. math:: \min(\mathrm{SNR}, \gamma) \, |x_0 - \hat x_0|^2
        = \min(1, \gamma / \mathrm{SNR}) \, |\epsilon - \hat\epsilon|^2, \qquad
        \mathrm{SNR} = \bar\alpha_t / (1 - \bar\alpha_t)

    Source: Hang et al. 2023 (Min-SNR), §3.4; they use gamma = 5.

    Args:
        prediction: What the error is of.
        signal: alpha_bar at each sample's step.
        gamma: Signal-to-noise ratio from which on errors of the clean sample weigh alike.
    """
    snr = signal / (1 - signal)
    of_clean = {"eps": snr, "x_start": torch.ones_like(snr), "v": snr + 1}
    return snr.clamp(max=gamma) / of_clean[prediction]


def gaussian_kl(
    mean: Float[Tensor, " batch *event"],
    log_variance: Float[Tensor, " batch *ones"],
    other_mean: Float[Tensor, " batch *event"],
    other_log_variance: Float[Tensor, " batch *event"],
) -> Float[Tensor, " batch *event"]:
    """KL divergence of two diagonal Gaussians per dimension, in nats."""
    return 0.5 * (
        other_log_variance
        - log_variance
        - 1
        + (log_variance - other_log_variance).exp()
        + (mean - other_mean) ** 2 * (-other_log_variance).exp()
    )


def picture_log_likelihood(
    pictures: Float[Tensor, " batch *event"],
    mean: Float[Tensor, " batch *event"],
    log_variance: Float[Tensor, " batch *event"],
) -> Float[Tensor, " batch *event"]:
    """Log probability of 8-bit values under a Gaussian integrated over each value's bin, nats.

    Source: Ho et al. 2020, Eq. 13.

    Args:
        pictures: Values k/127.5 - 1 of bytes k.
        mean: Mean of the Gaussian.
        log_variance: Its log variance.
    """
    scale = (-0.5 * log_variance).exp()
    centred = pictures - mean
    upper = torch.special.ndtr(scale * (centred + 1 / 255))
    lower = torch.special.ndtr(scale * (centred - 1 / 255))
    inside = torch.where(pictures > 0.999, 1 - lower, upper - lower)
    return torch.where(pictures < -0.999, upper, inside).clamp(min=1e-12).log()


def variational_term(
    x_start: Float[Tensor, " batch *event"],
    x_t: Float[Tensor, " batch *event"],
    eps_output: Float[Tensor, " batch *event"],
    variance_output: Float[Tensor, " batch *event"],
    signal: Float[Tensor, " batch"],
    signal_before: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """One term of the variational bound, bits per dimension: L_{t-1}, or L_0 at the last step.

    Source: Ho et al. 2020, Eq. 5, with the variance of Nichol & Dhariwal 2021, Eq. 15.

    Args:
        x_start: Clean pictures.
        x_t: Pictures at step t.
        eps_output: Predicted noise; detach it to train the variance alone.
        variance_output: The network's variance channels.
        signal: alpha_bar at t.
        signal_before: alpha_bar at t - 1; 1 at t = 0, which selects L_0.
    """
    true_mean, true_variance = posterior(x_start, x_t, signal, signal_before)
    predicted = to_x_start("eps", eps_output, x_t, signal).clamp(-1, 1)
    mean, _ = posterior(predicted, x_t, signal, signal_before)
    log_variance = learned_log_variance(variance_output, signal, signal_before)
    true_log = spread(true_variance.clamp(min=1e-20).log(), x_t)
    divergence = gaussian_kl(true_mean, true_log, mean, log_variance)
    likelihood = -picture_log_likelihood(x_start, mean, log_variance)
    is_last = spread((signal_before >= 1).float(), x_t) > 0
    return per_sample_mean(torch.where(is_last, likelihood, divergence)) / math.log(2)


def prior_term(
    x_start: Float[Tensor, " batch *event"], last_signal: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """L_T, bits per dimension: how far the noisiest step still is from pure noise.

    Source: Ho et al. 2020, Eq. 5, first term.

    Args:
        x_start: Clean samples.
        last_signal: alpha_bar at T - 1.
    """
    power = spread(last_signal, x_start)
    zero = torch.zeros_like(x_start)
    divergence = gaussian_kl(power.sqrt() * x_start, (1 - power).log(), zero, zero)
    return per_sample_mean(divergence) / math.log(2)
