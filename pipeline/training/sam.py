"""Sharpness-aware minimisation: the gradient is taken where the loss is worst nearby.

Source: Foret et al. 2021, Eq. 2 and Algorithm 1; unCLIP's CLIP takes radius 0.1, independently per
replica (Ramesh et al. 2022 App. C).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


@contextmanager
def at_the_worst_nearby(
    parameters: Sequence[Tensor], loss: Float[Tensor, ""], radius: float
) -> Iterator[None]:
    r"""Parameters are moved by :math:`\rho\,g/\|g\|` while the block runs, then exactly back.

    With several workers each moves by the gradient of its own rows: nothing is exchanged but what
    the loss itself gathers. Parameters that the loss does not reach stay.

    Args:
        parameters: What is trained; gradients that are there are left alone.
        loss: Loss at the parameters as they are.
        radius: Length of the move, over all parameters together.
    """
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    moved = [p for p, g in zip(parameters, gradients, strict=True) if g is not None]
    found = [g for g in gradients if g is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found)))  # type: ignore[attr-defined]
    kept = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        # A tensor of the device: nothing is read back. Where the loss is flat nothing moves.
        length = radius / norm.clamp(min=1e-12)
        torch._foreach_add_(moved, torch._foreach_mul(found, length))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, kept)  # type: ignore[attr-defined]
