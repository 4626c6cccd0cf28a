"""Checkpoints that are written while training goes on.

The loop stops only to copy its tensors to host memory; a thread then writes the copy as
``checkpoints.save`` does, manifest last. The copy is kept from one checkpoint to the next, so a
worker's host memory holds one more of the state that it writes.
"""

import sys
import threading
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from pipeline import checkpoints
from pipeline.checkpoints import State
from pipeline.training.device import local

GROUP_TIMEOUT = timedelta(minutes=10)
CLOSE_TIMEOUT_S = 30.0
SWITCH_INTERVAL_S = 1e-4
"""Serialising is Python, a millisecond per tensor; at Python's own 5 ms the training would wait so
long for the interpreter after every operation."""


class Checkpointer:
    """Writer of one worker's part of a run's checkpoints, one at a time."""

    def __init__(self, uri: str, keep: int, rank: int, world: int) -> None:
        """Write nothing yet; every worker makes one at the same time.

        Args:
            uri: Folder of the run's checkpoints.
            keep: Complete checkpoints that are left; older ones are deleted after each new one.
            rank: This worker.
            world: Number of workers.
        """
        self._uri, self._keep, self._rank, self._world = uri, keep, rank, world
        self._group: dist.ProcessGroup | None = None
        if world > 1:  # the thread's exchanges must not come between those of the training
            group = dist.new_group(backend="gloo", timeout=GROUP_TIMEOUT)
            assert isinstance(group, dist.ProcessGroup)
            self._group = group
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copy: dict[tuple[str, str], Tensor] = {}

    @property
    def is_writing(self) -> bool:
        """Whether the last checkpoint is not finished yet."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, state: State, samples_seen: int, before: Callable[[], None]) -> None:
        """Copy the state, then write the copy in the background; every worker calls it.

        Args:
            state: Live tensors, free to change again when this returns.
            samples_seen: Position of the run; names the checkpoint.
            before: Called in the background before the checkpoint can be complete.

        Raises:
            StorageError: The checkpoint before could not be written.
        """
        self.wait()
        copied = self._copied(state)

        def write() -> None:
            patience = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            try:
                before()
                checkpoints.save(self._uri, copied, samples_seen, self._group)
                if self._rank == 0:
                    checkpoints.keep_last(self._uri, self._keep)
            except BaseException as error:
                self._error = error  # raised again by `check`
            finally:
                sys.setswitchinterval(patience)

        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the last checkpoint failed with, if it has."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Until the last checkpoint is complete; raises what it failed with."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def close(self) -> None:
        """Give the last checkpoint some time to be completed, whatever ends the training.

        Another worker that died holds the thread up until its group notices.
        """
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _copied(self, state: State) -> State:
        """What this worker writes, in host memory of its own."""
        copied: State = {}
        live, copies = [], []
        for group, name in self._own(state):
            tensor = state[group][name]
            if (group, name) not in self._copy:
                pinned = tensor.device.type == "cuda"
                self._copy[group, name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
            copied.setdefault(group, {})[name] = self._copy[group, name]
            live.append(local(tensor))
            copies.append(local(self._copy[group, name]))
        with torch.no_grad():
            torch._foreach_copy_(copies, live, non_blocking=True)  # type: ignore[attr-defined]
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()
        return copied

    def _own(self, state: State) -> list[tuple[str, str]]:
        """Names of all shards, and of this worker's share of what every worker holds whole."""
        loads, own = [0] * self._world, []
        for group, tensors in state.items():
            for name, tensor in tensors.items():
                if isinstance(tensor, DTensor):
                    own.append((group, name))
                    continue
                writer = loads.index(min(loads))
                loads[writer] += tensor.nbytes
                if writer == self._rank:
                    own.append((group, name))
        return own
