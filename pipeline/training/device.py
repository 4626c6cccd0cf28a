"""What the loop asks of a device: fixed arithmetic, and answers it need not wait for."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


@contextmanager
def fixed_arithmetic(threads: int) -> Iterator[None]:
    """Fixed thread count and deterministic kernels for the length of a block.

    torch would also fill every new tensor, a debugging aid that costs a pass over it: not so here.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


def seed_torch(seed: int) -> None:
    """Seed what a model draws from; ``torch.manual_seed`` would format a traceback (1 ms).

    Args:
        seed: Any 63-bit number.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


class Late:
    """A few numbers of a step, copied to the host without waiting and read one step later."""

    def __init__(self, values: Float[Tensor, " value"]) -> None:
        """Start the copy."""
        self._event = None
        if values.is_cuda:
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = values

    def read(self) -> list[float]:
        """The values; waits for their own step at most."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()
