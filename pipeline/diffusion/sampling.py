"""Samplers: anything callable as ``(x_t, t) -> output`` can be sampled.

Dimension names: ``batch``; ``step``; ``*event``. Noise is handed in, never drawn here, so that a
sample is the same in any batch: ``NoiseSource`` gives the noise of one step for the whole batch,
built from one seed per sample by ``seeded_noise``.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pipeline.diffusion.config import DiffusionConfig, Prediction
from pipeline.diffusion.gaussian import (
    learned_log_variance,
    posterior,
    posterior_weights,
    signal_at,
    spread,
    to_eps,
    to_x_start,
)
from pipeline.diffusion.schedule import alpha_bar, strided_steps
from pipeline.draws import Streams

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``(x_t, t) -> output``: t is the forward step of each sample; output as the prediction says."""
NoiseSource = Callable[[int], Tensor]
"""Standard normal noise of sampling step i (0 is the start), shaped like the batch."""
Threshold = Callable[[Tensor], Tensor]
"""Keeps a predicted clean sample inside its range."""
Variance = Literal["fixed_small", "fixed_large", "learned_range"]


@dataclass(frozen=True)
class Process:
    """A trained diffusion process, ready to be run backwards."""

    alpha_bar: Float[Tensor, " step"]
    prediction: Prediction

    @classmethod
    def of(cls, config: DiffusionConfig) -> "Process":
        """The process that a configuration describes."""
        return cls(alpha_bar(config.schedule, config.num_steps), config.prediction)

    def to(self, like: Tensor) -> "Process":
        """The same process on the device of ``like``."""
        return Process(self.alpha_bar.to(like.device), self.prediction)


@dataclass(frozen=True)
class _Step:
    """One move from step t to an earlier step s."""

    t: Int[Tensor, " batch"]
    signal: Float[Tensor, " batch"]
    signal_before: Float[Tensor, " batch"]
    is_last: bool


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> NoiseSource:
    """Noise that depends on a sample's own seed and the step, not on its place in the batch.

    Args:
        seeds: One seed per sample, at least 0.
        shape: Shape of one sample.
    """
    streams = [Streams(seed) for seed in seeds]

    def draw(step: int) -> Float[Tensor, " batch *event"]:
        rows = np.empty((len(seeds), *shape), np.float32)
        for row, stream in zip(rows, streams, strict=True):
            stream.at(step).standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(rows)

    return draw


def clip_to_unit(x_start: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch *event"]:
    """Static thresholding of pictures to [-1, 1] (Ho et al. 2020; Saharia et al. 2022 §2.3)."""
    return x_start.clamp(-1, 1)


def dynamic_threshold(share: float) -> Threshold:
    r"""Dynamic thresholding: clip to each picture's own range, then shrink that to [-1, 1].

    .. math:: \hat x_0 \leftarrow \mathrm{clip}(\hat x_0, -s, s)/s, \quad
              s = \max(1, q_p(|\hat x_0|))

    Source: Saharia et al. 2022 (Imagen) §2.3.

    Args:
        share: p, the quantile of a picture's absolute values that becomes its range.
    """

    def threshold(x_start: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch *event"]:
        values = x_start.float().abs().flatten(1)
        # torch.quantile takes 16 million values at most: the nearest rank does without.
        rank = max(1, round(share * values.shape[1]))
        bound = spread(values.kthvalue(rank, dim=1).values.clamp(min=1), x_start)
        return torch.minimum(torch.maximum(x_start, -bound), bound) / bound

    return threshold


def no_threshold(x_start: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch *event"]:
    """Leave the prediction as it is (embeddings)."""
    return x_start


def ddim_sample(
    denoiser: Denoiser,
    process: Process,
    noise: NoiseSource,
    num_sampling_steps: int,
    *,
    eta: float = 0.0,
    threshold: Threshold = clip_to_unit,
) -> Float[Tensor, " batch *event"]:
    r"""Sample with DDIM; eta 0 is deterministic, eta 1 is ancestral sampling on the stride.

    .. math:: x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1-\bar\alpha_s-\sigma^2}\,\hat\epsilon
              + \sigma z, \quad \sigma = \eta\sqrt{\tfrac{1-\bar\alpha_s}{1-\bar\alpha_t}
              \left(1-\tfrac{\bar\alpha_t}{\bar\alpha_s}\right)}

    Source: Song et al. 2021 (DDIM), Eqs. 12 and 16. The noise is derived again from the
    thresholded x_0, as ADM does.

    Args:
        denoiser: The network with its conditions bound.
        process: Schedule and kind of output.
        noise: Step 0 gives x_T, step i the noise added by move i.
        num_sampling_steps: Network evaluations.
        eta: Share of the ancestral noise, 0 to 1.
        threshold: Applied to each predicted clean sample.
    """
    x_t = noise(0)
    for index, step in enumerate(_steps(process, num_sampling_steps, x_t), start=1):
        output = denoiser(x_t, step.t)
        x_start = threshold(to_x_start(process.prediction, output, x_t, step.signal))
        eps = to_eps(x_start, x_t, step.signal)
        before = step.signal_before
        variance = eta**2 * (1 - before) / (1 - step.signal) * (1 - step.signal / before)
        direction = spread((1 - before - variance).clamp(min=0).sqrt(), x_t) * eps
        x_t = spread(before.sqrt(), x_t) * x_start + direction
        if eta > 0 and not step.is_last:
            x_t = x_t + spread(variance.sqrt(), x_t) * noise(index).to(x_t)
    return x_t


def ddpm_sample(
    denoiser: Denoiser,
    process: Process,
    noise: NoiseSource,
    num_sampling_steps: int,
    *,
    variance: Variance = "fixed_small",
    threshold: Threshold = clip_to_unit,
) -> Float[Tensor, " batch *event"]:
    """Ancestral sampling, on all steps or on an even stride of them.

    Source: Ho et al. 2020, Algorithm 2; strided as in Nichol & Dhariwal 2021, §4.

    Args:
        denoiser: The network; with ``learned_range`` its output has twice the event's channels.
        process: Schedule and kind of output.
        noise: Step 0 gives x_T, step i the noise added by move i.
        num_sampling_steps: Network evaluations.
        variance: The posterior's, beta, or learned between the two.
        threshold: Applied to each predicted clean sample.
    """
    x_t = noise(0)
    steps = _steps(process, num_sampling_steps, x_t)
    signal = torch.stack([step.signal for step in steps])
    before = torch.stack([step.signal_before for step in steps])
    of_start, of_noisy, small = posterior_weights(signal, before)
    stds = (small if variance == "fixed_small" else 1 - signal / before).sqrt()
    for index, step in enumerate(steps):
        output = denoiser(x_t, step.t)
        prediction = output[:, : x_t.shape[1]]
        x_start = threshold(to_x_start(process.prediction, prediction, x_t, step.signal))
        mean = spread(of_start[index], x_t) * x_start + spread(of_noisy[index], x_t) * x_t
        if step.is_last:
            return mean
        if variance == "learned_range":
            rest = output[:, x_t.shape[1] :]
            std = (learned_log_variance(rest, step.signal, step.signal_before) / 2).exp()
        else:
            std = spread(stds[index], x_t)
        x_t = mean + std * noise(index + 1).to(x_t)
    return x_t


def ddim_invert(
    denoiser: Denoiser,
    process: Process,
    x_start: Float[Tensor, " batch *event"],
    num_sampling_steps: int,
    *,
    first_std: float = 0.0,
    noise: Float[Tensor, " batch *event"] | None = None,
) -> Float[Tensor, " batch *event"]:
    r"""The noise x_T from which DDIM with eta 0 leads back to a clean sample.

    .. math:: x_t = \sqrt{\bar\alpha_t}\,\hat x_0 + \sqrt{1-\bar\alpha_t}\,\hat\epsilon

    with both predicted where the move starts, at less noise: sampling with the same steps returns
    the sample up to an error that falls with their number. Nothing is thresholded, for a clipped
    prediction cannot be undone. Source: Song et al. 2021 (DDIM), Eq. 13
    and §4.3; Dhariwal & Nichol 2021, App. F.

    A network that predicts x_0 errs by as much at hardly any noise as at a little, and the noise
    that this implies, the error over :math:`\sqrt{1-\bar\alpha_t}`, is then many times too long.
    With ``first_std`` the way begins with drawn noise where there is a little of it.

    Args:
        denoiser: The network with its conditions bound.
        process: Schedule and kind of output.
        x_start: Clean samples.
        num_sampling_steps: Network evaluations, as sampling will take.
        first_std: Begin at the first step whose noise has this standard deviation; 0 at the
            clean sample, as published.
        noise: Standard normal, for ``first_std`` above 0.
    """
    x_t, asked = x_start, None
    steps = list(reversed(_steps(process, num_sampling_steps, x_t)))
    if noise is not None and first_std > 0:
        place = sum(bool((1 - step.signal).sqrt().amin() < first_std) for step in steps[:-1])
        signal = spread(steps[place].signal, x_t)
        x_t, asked = signal.sqrt() * x_start + (1 - signal).sqrt() * noise, steps[place].t
        steps = steps[place + 1 :]
    for step in steps:
        # A clean sample has no step of its own: the network is asked as at the least noise.
        t, here = (step.t, step.signal) if asked is None else (asked, step.signal_before)
        clean = to_x_start(process.prediction, denoiser(x_t, t), x_t, here)
        eps = to_eps(clean, x_t, here)
        clean = x_start if asked is None else clean
        there = spread(step.signal, x_t)
        x_t, asked = there.sqrt() * clean + (1 - there).sqrt() * eps, step.t
    return x_t


def repaint_sample(
    denoiser: Denoiser,
    process: Process,
    noise: NoiseSource,
    num_sampling_steps: int,
    known: Float[Tensor, " batch *event"],
    is_known: Bool[Tensor, " batch *mask"],
    *,
    num_visits: int = 5,
    threshold: Threshold = clip_to_unit,
) -> Float[Tensor, " batch *event"]:
    r"""Paint the unknown part of pictures: ancestral sampling that is told the known part.

    .. math:: x_s = m \odot (\sqrt{\bar\alpha_s}\,x_0 + \sqrt{1-\bar\alpha_s}\,\epsilon)
              + (1-m) \odot p_\theta(x_s \mid x_t)

    Each move but the last is made several times, with the noise of the move added again in
    between, so that what is painted comes to agree with what is known. Source: Lugmayr et al. 2022
    (RePaint), Algorithm 1 with jumps of one move, on an even stride of steps.

    Args:
        denoiser: The network with its conditions bound.
        process: Schedule and kind of output.
        noise: Step 0 gives x_T, the others what is drawn on the way.
        num_sampling_steps: Moves.
        known: Clean samples; any values where they are not known.
        is_known: m, over the last dimensions of ``known`` or broadcast to it. There the result
            is ``known`` itself.
        num_visits: U, how often each move is made.
        threshold: Applied to each predicted clean sample.
    """
    x_t, numbers = noise(0), itertools.count(1)
    for step in _steps(process, num_sampling_steps, x_t):
        before = spread(step.signal_before, x_t)
        for visit in range(num_visits):
            output = denoiser(x_t, step.t)
            x_start = threshold(to_x_start(process.prediction, output, x_t, step.signal))
            mean, variance = posterior(x_start, x_t, step.signal, step.signal_before)
            if step.is_last:
                return torch.where(is_known, known, mean)
            painted = mean + spread(variance.sqrt(), x_t) * noise(next(numbers)).to(x_t)
            told = before.sqrt() * known + (1 - before).sqrt() * noise(next(numbers)).to(x_t)
            x_t = torch.where(is_known, told, painted)
            if visit + 1 < num_visits:
                alpha = spread(step.signal, x_t) / before
                x_t = alpha.sqrt() * x_t + (1 - alpha).sqrt() * noise(next(numbers)).to(x_t)
    return x_t


def dpm_solver_sample(
    denoiser: Denoiser,
    process: Process,
    noise: NoiseSource,
    num_sampling_steps: int,
    *,
    threshold: Threshold = clip_to_unit,
) -> Float[Tensor, " batch *event"]:
    r"""Sample with DPM-Solver++(2M): second order, for few steps; deterministic.

    .. math:: x_s = \tfrac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) D, \quad
              D = (1 + \tfrac{1}{2r})\,\hat x_0^{(t)} - \tfrac{1}{2r}\,\hat x_0^{(u)}

    with log signal-to-noise ratio :math:`\lambda = \log(\alpha/\sigma)`,
    :math:`h = \lambda_s - \lambda_t`, and r the ratio of the step before to h. Source: Lu et al.
    2022 (DPM-Solver++), Algorithm 2. The first and the last step are of first order.

    Args:
        denoiser: The network with its conditions bound.
        process: Schedule and kind of output.
        noise: Step 0 gives x_T; nothing else is asked.
        num_sampling_steps: Network evaluations.
        threshold: Applied to each predicted clean sample.
    """
    x_t = noise(0)
    last_x_start, last_h = None, torch.zeros(())
    for step in _steps(process, num_sampling_steps, x_t):
        output = denoiser(x_t, step.t)
        x_start = threshold(to_x_start(process.prediction, output, x_t, step.signal))
        if step.is_last:
            return x_start
        signal, before = step.signal, step.signal_before
        h = 0.5 * ((before / (1 - before)).log() - (signal / (1 - signal)).log())
        direction = x_start
        if last_x_start is not None:
            weight = spread(h / (2 * last_h), x_t)
            direction = (1 + weight) * x_start - weight * last_x_start
        keep = spread(((1 - before) / (1 - signal)).sqrt(), x_t)
        x_t = keep * x_t - spread(before.sqrt() * torch.expm1(-h), x_t) * direction
        last_x_start, last_h = x_start, h
    return x_t


def _steps(process: Process, num_sampling_steps: int, x_t: Tensor) -> list[_Step]:
    schedule = process.alpha_bar.to(x_t.device)
    moves = strided_steps(len(schedule), num_sampling_steps).to(x_t.device)
    t, signal, before = (
        each[:, None].repeat(1, len(x_t))
        for each in (
            moves,
            signal_at(schedule, moves),
            signal_at(schedule, functional.pad(moves[1:], (0, 1), value=-1)),
        )
    )
    last = len(moves) - 1
    return [
        _Step(*rows, index == last)
        for index, rows in enumerate(zip(t, signal, before, strict=True))
    ]
