"""What the loop asks of a device: fixed arithmetic, parts of tensors, answers without waiting."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor


@contextmanager
def fixed_arithmetic(
    threads: int, device: str = "cpu", precision: str = "float32"
) -> Iterator[None]:
    """Fixed thread count and deterministic kernels for the length of a block.

    torch would also fill every new tensor, a debugging aid that costs a pass over it: not so here.
    On a GPU a few operations have no deterministic kernel; torch warns of them and goes on. There,
    what bfloat16 leaves of products in float32 is done in TF32.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    matmul = torch.get_float32_matmul_precision()
    if device != "cpu" and precision == "bfloat16":
        torch.set_float32_matmul_precision("high")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_float32_matmul_precision(matmul)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


def seed_torch(seed: int) -> None:
    """Seed what a model draws from; ``torch.manual_seed`` would format a traceback (1 ms).

    Args:
        seed: Any 63-bit number.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


def local(tensor: Tensor) -> Tensor:
    """What this worker holds of a tensor that may be cut over the workers.

    The same object at every call, which an optimiser's state can be found by; ``to_local`` makes a
    new one.
    """
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def on_device(batch: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """A batch where the model is; from pinned memory the copy does not hold the host up."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


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


class Stopwatch:
    """Time that a device needs for a block, known without waiting when the next one begins."""

    def __init__(self, device: str) -> None:
        """Nothing was measured yet."""
        self._is_cuda = device != "cpu"
        self._started = self._last_s = 0.0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    def __enter__(self) -> None:
        """Begin a block."""
        self._collect()
        if self._is_cuda:
            self._events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[assignment]
            self._events[0].record()  # type: ignore[index]
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """End the block."""
        if self._events is not None:
            self._events[1].record()
        else:
            self._last_s = time.monotonic() - self._started

    def _collect(self) -> None:
        if self._events is not None and self._events[1].query():
            self._last_s = self._events[0].elapsed_time(self._events[1]) / 1000

    def last_s(self) -> float:
        """Seconds of the last block that has ended; 0 before there is one."""
        return self._last_s
