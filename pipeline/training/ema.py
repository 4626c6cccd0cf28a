"""Moving average of the weights: what is published, validated and sampled from.

Convention: the decay is per optimiser step, as the paper's Table 3 states it (0.9999 at batch
2,048), with the step counted as ``samples_seen / global_batch_size``; so a change of workers moves
nothing, and a change of the global batch is a change of the averaging length in samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.training.device import local


class WeightAverage:
    """Exponential moving average of a model's trained parameters."""

    def __init__(self, model: nn.Module, decay: float, start_step: int = 0) -> None:
        """Start at the model's present weights.

        Args:
            model: The network; its parameters are averaged, buffers are taken as they are. Of
                parameters that are cut over the workers, this worker's part.
            decay: Long-run decay per step, in [0, 1).
            start_step: The first update that is averaged; before, the average is the weights.
        """
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._names = [name for name, _ in named]
        self._live = [local(parameter).detach() for _, parameter in named]
        self._average = [parameter.clone() for parameter in self._live]
        self._decay, self._start_step = decay, start_step
        self._step = 0

    def update(self, step: int) -> None:
        """Move towards the live weights after update number ``step``, counted from 0.

        In the first steps n of the average the decay is (1 + n) / (10 + n), so that its start is
        soon forgotten; before them it costs nothing.
        """
        self.resume(step + 1)
        if step < self._start_step:
            return
        if step == self._start_step > 0:
            self._take_live()
        own_step = step - self._start_step
        decay = min(self._decay, (1 + own_step) / (10 + own_step))
        torch._foreach_lerp_(self._average, self._live, 1.0 - decay)  # type: ignore[attr-defined]

    def resume(self, step: int) -> None:
        """Say that ``step`` updates are done, when the state was restored."""
        self._step = step

    def _take_live(self) -> None:
        torch._foreach_copy_(self._average, self._live)  # type: ignore[attr-defined]

    def state(self) -> dict[str, Tensor]:
        """The live averages by parameter name; loading in place restores them."""
        if 0 < self._start_step >= self._step:
            self._take_live()
        return dict(zip(self._names, self._average, strict=True))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averages while the block runs, then its own weights bit for bit."""
        kept = [parameter.clone() for parameter in self._live]
        torch._foreach_copy_(self._live, list(self.state().values()))  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch._foreach_copy_(self._live, kept)  # type: ignore[attr-defined]
