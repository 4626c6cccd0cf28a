"""Classifier-free guidance.

Source: Ho & Salimans 2022, Eq. 6, in GLIDE's form (Nichol et al. 2021, Eq. 8): scale 1 is no
guidance.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def guide(
    conditional: Float[Tensor, " batch *event"],
    unconditional: Float[Tensor, " batch *event"],
    guidance_scale: float,
) -> Float[Tensor, " batch *event"]:
    r"""Move away from the unconditional output.

    .. math:: \hat\epsilon = \epsilon(\varnothing) + s\,(\epsilon(c) - \epsilon(\varnothing))

    Args:
        conditional: Output with conditions.
        unconditional: Output without them.
        guidance_scale: s; 1 returns ``conditional``.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def guided(
    doubled: Callable[[Tensor, Tensor], Tensor], guidance_scale: float, event_channels: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Turn a denoiser of doubled batches into a guided denoiser.

    Args:
        doubled: Maps ``(x_t, t)`` of 2·batch rows, conditional rows first, to outputs.
        guidance_scale: s.
        event_channels: Channels of dimension 1 that are guided; further ones (the learned
            variance) are taken from the conditional rows, as ADM does.
    """

    def denoise(
        x_t: Float[Tensor, " batch *event"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch *output"]:
        output = doubled(torch.cat([x_t, x_t]), torch.cat([t, t]))
        with_condition, without = output.chunk(2)
        mixed = guide(
            with_condition[:, :event_channels], without[:, :event_channels], guidance_scale
        )
        return torch.cat([mixed, with_condition[:, event_channels:]], dim=1)

    return denoise
