"""Noise schedules: how fast signal turns into noise.

Dimension names: ``step`` (diffusion steps of the forward process, or a strided subset of them).
All schedules are computed in float64 and handed out in float32.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.config import ScheduleName

MAX_BETA = 0.999
"""Keeps the last cosine step from losing all signal (Nichol & Dhariwal 2021 §3.2)."""


def cosine_alpha_bar(num_steps: int, offset: float = 0.008) -> Float[Tensor, " step"]:
    r"""Cumulative signal power of the cosine schedule, betas clipped at 0.999.

    .. math:: \bar\alpha_t = f(t)/f(0), \quad f(t) = \cos^2\frac{t/T + s}{1 + s}\frac{\pi}{2}

    Source: Nichol & Dhariwal 2021, Eq. 17.

    Args:
        num_steps: T, steps of the forward process.
        offset: s, keeps the first betas from being too small.

    Returns:
        Decreasing values in (0, 1]; index 0 holds the least noise.
    """
    grid = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    signal = torch.cos((grid + offset) / (1 + offset) * math.pi / 2) ** 2
    betas = (1 - signal[1:] / signal[:-1]).clamp(max=MAX_BETA)
    return torch.cumprod(1 - betas, dim=0).float()


def linear_alpha_bar(num_steps: int) -> Float[Tensor, " step"]:
    r"""Cumulative signal power of linear betas from 1e-4 to 0.02, rescaled to T steps.

    .. math:: \bar\alpha_t = \prod_{s \le t} (1 - \beta_s)

    Source: Ho et al. 2020, §4 (T = 1000; other T scale both ends by 1000/T, as ADM does).

    Args:
        num_steps: T, steps of the forward process; at least 20, below which a beta passes 1.
    """
    scale = 1000 / num_steps
    betas = torch.linspace(1e-4 * scale, 0.02 * scale, num_steps, dtype=torch.float64)
    return torch.cumprod(1 - betas.clamp(max=MAX_BETA), dim=0).float()


def alpha_bar(name: ScheduleName, num_steps: int) -> Float[Tensor, " step"]:
    """Cumulative signal power of the named schedule, index 0 with the least noise."""
    return cosine_alpha_bar(num_steps) if name == "cosine" else linear_alpha_bar(num_steps)


def strided_steps(num_steps: int, num_sampling_steps: int) -> Int[Tensor, " step"]:
    """Evenly spaced steps of the forward process, in sampling order (most noise first).

    Source: Nichol & Dhariwal 2021, §4; the first is T - 1. One step alone starts at T - 1.

    Args:
        num_steps: T.
        num_sampling_steps: Network evaluations, 1 to T.
    """
    if num_sampling_steps == 1:
        return torch.tensor([num_steps - 1])
    spaced = torch.linspace(num_steps - 1, 0, num_sampling_steps, dtype=torch.float64)
    return spaced.round().long()
