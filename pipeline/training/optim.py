"""AdamW in samples: parameter groups, learning-rate course, and updates that a device can mask.

The optimiser is PyTorch's fused AdamW. Clipping and the refusal of non-finite gradients happen
inside its kernel: ``grad_scale`` divides the gradients and ``found_inf = 1`` leaves parameters,
moments and step counts untouched, so that nothing has to be read back to decide (contract 19).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.training.device import local

SLOTS = ("step", "exp_avg", "exp_avg_sq")
"""State of one parameter: updates so far and the two moments (Kingma & Ba 2015, Algorithm 1)."""


def adamw(
    model: nn.Module,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> torch.optim.AdamW:
    """AdamW with decoupled decay on matrices and kernels only; its state exists from the start.

    Of parameters that are cut over the workers it updates this worker's part.

    Source: Loshchilov & Hutter 2019, Algorithm 2; gains and biases are not decayed, as in CLIP
    (Radford et al. 2021 §2.5). The learning rate is set by `set_learning_rate` before every step.

    Args:
        model: The network; parameters that need no gradient are left out.
        betas: Decays of both moments.
        eps: Added to the root of the second.
        weight_decay: Of matrices and kernels.
        factors: Prefix of parameter names → factor of their learning rate, else 1.
    """
    trained = {name: local(p) for name, p in model.named_parameters() if p.requires_grad}
    members: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter in trained.items():
        prefix = max((p for p in factors if name.startswith(p)), key=len, default=None)
        factor = 1.0 if prefix is None else factors[prefix]
        members.setdefault((parameter.ndim >= 2, factor), []).append(parameter)
    groups = [
        {"params": found, "weight_decay": weight_decay if decays else 0.0, "lr_factor": factor}
        for (decays, factor), found in members.items()
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    for parameter in trained.values():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return optimizer


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's live tensors as ``<parameter name>/<slot>``; loading in place restores it."""
    return {
        f"{name}/{slot}": optimizer.state[local(parameter)][slot]
        for name, parameter in model.named_parameters()
        if local(parameter) in optimizer.state
        for slot in SLOTS
    }


def learning_rate(
    samples_seen: int,
    *,
    peak: float,
    samples: int,
    warmup_samples: int,
    decay: Literal["cosine", "none"],
) -> float:
    r"""Learning rate of the update that starts at ``samples_seen``.

    Linear rise over ``warmup_samples``, then constant or a half cosine down to 0 at ``samples``:

    .. math:: \eta = \tfrac12 \eta_{peak} (1 + \cos \pi \frac{n - n_w}{N - n_w})

    Source: Loshchilov & Hutter 2017, Eq. 5, without restarts.
    """
    if samples_seen < warmup_samples:
        return peak * (samples_seen + 1) / warmup_samples
    if decay == "none":
        return peak
    span = max(1, samples - warmup_samples)
    done = min(1.0, (samples_seen - warmup_samples) / span)
    return peak * 0.5 * (1.0 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group the learning rate, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_factor"]


def gradient_norm(gradients: list[Tensor]) -> Float[Tensor, ""]:
    """Euclidean norm of the whole gradient; not finite if any element is not."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # type: ignore[attr-defined]


def masked_step(
    optimizer: torch.optim.Optimizer,
    norm: Float[Tensor, ""],
    found_bad: Float[Tensor, ""],
    clip_norm: float | None,
) -> None:
    """One update that clips to ``clip_norm`` and does nothing where ``found_bad`` is 1.

    Args:
        optimizer: A fused optimiser with gradients in place.
        norm: Norm of the whole gradient.
        found_bad: 1 where loss or gradient is not finite, else 0; stays on the device.
        clip_norm: Largest norm, or None for no clipping.
    """
    # torch's own hooks for mixed precision: the fused kernel divides by one and obeys the other.
    optimizer.grad_scale = None if clip_norm is None else (norm / clip_norm).clamp_min(1.0)  # type: ignore[attr-defined]
    optimizer.found_inf = found_bad  # type: ignore[attr-defined]
    optimizer.step()
