"""Moving average of the weights: what is published, validated and sampled from.

Convention: the decay is per optimiser step, as the paper's Table 3 states it (0.9999 at batch
2,048), with the step counted as ``samples_seen / global_batch_size``; so a change of workers moves
nothing, and a change of the global batch is a change of the averaging length in samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's trained parameters."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the model's present weights.

        Args:
            model: The network; its parameters are averaged, buffers are taken as they are.
            decay: Long-run decay per step, in [0, 1).
        """
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._names = [name for name, _ in named]
        self._live = [parameter.detach() for _, parameter in named]
        self._average = [parameter.clone() for parameter in self._live]
        self._decay = decay

    def update(self, step: int) -> None:
        """Move towards the live weights after update number ``step``, counted from 0.

        Early on the decay is (1 + step) / (10 + step), so that the start is soon forgotten.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, self._live, 1.0 - decay)  # type: ignore[attr-defined]

    def state(self) -> dict[str, Tensor]:
        """The live averages by parameter name; loading in place restores them."""
        return dict(zip(self._names, self._average, strict=True))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averages while the block runs, then its own weights bit for bit."""
        kept = [parameter.clone() for parameter in self._live]
        torch._foreach_copy_(self._live, self._average)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch._foreach_copy_(self._live, kept)  # type: ignore[attr-defined]

    def published(self, model: nn.Module) -> dict[str, Tensor]:
        """A full state dict: averages for parameters, the model's own values for buffers."""
        state = {name: value.detach() for name, value in model.state_dict().items()}
        return state | self.state()
