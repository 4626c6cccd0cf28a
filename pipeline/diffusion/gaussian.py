"""The Gaussian process itself: forward draws, conversions of predictions, the posterior.

Dimension names: ``batch``; ``step`` (forward steps); ``*event`` (``channel height width`` for
pictures, ``dim`` for CLIP embeddings). ``alpha_bar`` is cumulative signal power, float32,
decreasing in (0, 1]; ``t`` runs from 0 (least noise) to T - 1.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.config import Prediction


def spread(
    values: Float[Tensor, " batch"], like: Float[Tensor, " batch *event"]
) -> Float[Tensor, " batch *ones"]:
    """One value per sample, shaped to multiply ``like``."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def q_sample(
    x_start: Float[Tensor, " batch *event"],
    t: Int[Tensor, " batch"],
    eps: Float[Tensor, " batch *event"],
    alpha_bar: Float[Tensor, " step"],
) -> Float[Tensor, " batch *event"]:
    r"""Draw ``x_t`` from ``q(x_t | x_0)`` in closed form.

    .. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon

    Source: Ho et al. 2020, Eq. 4.

    Args:
        x_start: Clean samples. Pictures in [-1, 1]; embeddings with about unit variance.
        t: Diffusion step of each sample.
        eps: Standard normal noise.
        alpha_bar: The schedule.
    """
    signal = spread(alpha_bar[t], x_start)
    return signal.sqrt() * x_start + (1 - signal).sqrt() * eps


def velocity(
    x_start: Float[Tensor, " batch *event"],
    eps: Float[Tensor, " batch *event"],
    signal: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *event"]:
    r"""The v target.

    .. math:: v = \sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, x_0

    Source: Salimans & Ho 2022, §4 and App. D.

    Args:
        x_start: Clean samples.
        eps: The noise that was added.
        signal: alpha_bar at each sample's step.
    """
    power = spread(signal, x_start)
    return power.sqrt() * eps - (1 - power).sqrt() * x_start


def target(
    prediction: Prediction,
    x_start: Float[Tensor, " batch *event"],
    eps: Float[Tensor, " batch *event"],
    signal: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *event"]:
    """What a network with this kind of output should say."""
    if prediction == "eps":
        return eps
    if prediction == "x_start":
        return x_start
    return velocity(x_start, eps, signal)


def to_x_start(
    prediction: Prediction,
    output: Float[Tensor, " batch *event"],
    x_t: Float[Tensor, " batch *event"],
    signal: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *event"]:
    r"""The clean sample that a network's output implies.

    .. math:: x_0 = (x_t - \sqrt{1-\bar\alpha_t}\,\epsilon)/\sqrt{\bar\alpha_t}
              = \sqrt{\bar\alpha_t}\, x_t - \sqrt{1-\bar\alpha_t}\, v

    Source: Ho et al. 2020, Eq. 4 solved for x_0; Salimans & Ho 2022, App. D for v.

    Args:
        prediction: Kind of ``output``.
        output: The network's output.
        x_t: Noisy samples it was given.
        signal: alpha_bar at each sample's step.
    """
    if prediction == "x_start":
        return output
    power = spread(signal, x_t)
    if prediction == "eps":
        return (x_t - (1 - power).sqrt() * output) / power.sqrt()
    return power.sqrt() * x_t - (1 - power).sqrt() * output


def to_eps(
    x_start: Float[Tensor, " batch *event"],
    x_t: Float[Tensor, " batch *event"],
    signal: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *event"]:
    r"""The noise that a clean sample implies.

    .. math:: \epsilon = (x_t - \sqrt{\bar\alpha_t}\, x_0)/\sqrt{1-\bar\alpha_t}

    Source: Ho et al. 2020, Eq. 4 solved for the noise. Undefined at alpha_bar = 1.
    """
    power = spread(signal, x_t)
    return (x_t - power.sqrt() * x_start) / (1 - power).sqrt()


def posterior(
    x_start: Float[Tensor, " batch *event"],
    x_t: Float[Tensor, " batch *event"],
    signal: Float[Tensor, " batch"],
    signal_before: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, " batch *event"], Float[Tensor, " batch"]]:
    r"""Mean and variance of ``q(x_s | x_t, x_0)`` for the step from t to an earlier s.

    .. math:: \tilde\mu = \frac{\sqrt{\bar\alpha_s}\,\beta}{1-\bar\alpha_t} x_0
              + \frac{\sqrt{\alpha}(1-\bar\alpha_s)}{1-\bar\alpha_t} x_t, \quad
              \tilde\beta = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\beta

    with :math:`\alpha = \bar\alpha_t/\bar\alpha_s` and :math:`\beta = 1 - \alpha`, so that strided
    steps are covered. Source: Ho et al. 2020, Eqs. 6 and 7.

    Args:
        x_start: Clean samples.
        x_t: Samples at step t.
        signal: alpha_bar at t.
        signal_before: alpha_bar at s < t; 1 for the last step.
    """
    of_start, of_noisy, variance = posterior_weights(signal, signal_before)
    return spread(of_start, x_t) * x_start + spread(of_noisy, x_t) * x_t, variance


def posterior_weights(
    signal: Float[Tensor, "*steps"], signal_before: Float[Tensor, "*steps"]
) -> tuple[Float[Tensor, "*steps"], Float[Tensor, "*steps"], Float[Tensor, "*steps"]]:
    """Weights of x_0 and of x_t in the posterior's mean, and its variance; see `posterior`."""
    alpha = signal / signal_before
    beta = 1 - alpha
    of_start = signal_before.sqrt() * beta / (1 - signal)
    of_noisy = alpha.sqrt() * (1 - signal_before) / (1 - signal)
    return of_start, of_noisy, (1 - signal_before) / (1 - signal) * beta


def learned_log_variance(
    fraction: Float[Tensor, " batch *event"],
    signal: Float[Tensor, " batch"],
    signal_before: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *event"]:
    r"""Log variance between the posterior's and beta, as the network says.

    .. math:: \log\sigma^2 = v\log\beta_t + (1-v)\log\tilde\beta_t,\quad v = (\text{output}+1)/2

    Source: Nichol & Dhariwal 2021, Eq. 15. At the last step, where the posterior's variance is
    0, beta stands in for it (their code takes the second step's value).

    Args:
        fraction: Network output, about -1 (posterior variance) to 1 (beta).
        signal: alpha_bar at t.
        signal_before: alpha_bar at the step before.
    """
    beta = 1 - signal / signal_before
    smallest = (1 - signal_before) / (1 - signal) * beta
    upper = spread(beta.log(), fraction)
    lower = spread(torch.where(smallest > 0, smallest, beta).log(), fraction)
    share = (fraction + 1) / 2
    return share * upper + (1 - share) * lower


def signal_at(
    alpha_bar: Float[Tensor, " step"], t: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """alpha_bar at each step; 1 (no noise) at t = -1."""
    return torch.where(t >= 0, alpha_bar[t.clamp(min=0)], torch.ones_like(alpha_bar[:1]))
