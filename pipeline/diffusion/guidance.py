"""Classifier-free guidance, and guidance by the gradient of a score.

Source: Ho & Salimans 2022, Eq. 6, in GLIDE's form (Nichol et al. 2021, Eq. 8): scale 1 is no
guidance.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.gaussian import signal_at, spread, target, to_eps, to_x_start
from pipeline.diffusion.sampling import Denoiser, Process

Score = Callable[[Tensor], Tensor]
"""Clean samples → one number each, such as the log-probability of a caption; differentiable."""


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


def climbing(denoiser: Denoiser, process: Process, score: Score, scale: float) -> Denoiser:
    r"""Move each predicted clean sample up the gradient of a score of it.

    .. math:: \hat x_0 \leftarrow \hat x_0
              + s\,(1-\bar\alpha_t)\,\nabla_{\hat x_0} \log p(y \mid \hat x_0)

    By Tweedie's formula a condition moves the mean of the clean sample by
    :math:`\tfrac{1-\bar\alpha_t}{\sqrt{\bar\alpha_t}} \nabla_{x_t} \log p(y \mid x_t)`, which is
    the shift of Dhariwal & Nichol 2021, Algorithm 2. The gradient is taken at the prediction and
    led back through :math:`\partial\hat x_0/\partial x_t = \sqrt{\bar\alpha_t}`, as for data of
    unit variance, so that the network is not differentiated (Nichol et al. 2021, §2.4, train a
    CLIP on noisy pictures instead).

    Args:
        denoiser: The network with its conditions bound; channels beyond the event's stay.
        process: Schedule and kind of output.
        score: log p(y | x_0) up to a constant.
        scale: s; 0 moves nothing.
    """

    def denoise(
        x_t: Float[Tensor, " batch *event"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch *output"]:
        output = denoiser(x_t, t)
        channels, signal = x_t.shape[1], signal_at(process.alpha_bar.to(t.device), t)
        x_start = to_x_start(process.prediction, output[:, :channels], x_t, signal)
        # Sampling may run in inference mode, whose tensors know no gradients.
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = x_start.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
        moved = x_start + scale * (1 - spread(signal, x_t)) * gradient
        said = target(process.prediction, moved, to_eps(moved, x_t, signal), signal)
        return torch.cat([said, output[:, channels:]], dim=1)

    return denoise
