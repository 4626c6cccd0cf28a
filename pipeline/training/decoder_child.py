"""What the process of a decoder does.

It is told once what to make; then each step's number, when there is room for its rows, and answers
when they are written. Memory is anonymous (memfd) and goes with the last process that has it open,
however that ends; it is not limited by the size of /dev/shm. Dimension names: ``row``.
"""

import mmap
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

import numpy as np
import torch

from pipeline.draws import Streams, hash64
from pipeline.errors import PipelineError
from pipeline.shards.loader import Loader, Sample, Share
from pipeline.shards.skipping import without
from pipeline.training.settings import LoopSettings

RING_STEPS = 3
"""Steps whose rows there is memory for: one that the worker copies, two that are made."""
WEIGHT = "loss_weight"
ALIGNMENT = 64

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Told:
    """What a decoder makes."""

    settings: LoopSettings
    share: Share
    first_step: int


@dataclass(frozen=True)
class Layout:
    """How the rows of some steps lie in memory: array by array, step by step, row by row."""

    rows_per_step: int
    arrays: tuple[tuple[str, tuple[int, ...], str], ...]
    """Name, shape and dtype of one row of each array."""

    @classmethod
    def of(cls, row: Arrays, rows_per_step: int) -> "Layout":
        """The layout of rows like this one."""
        described = ((name, array.shape, array.dtype.str) for name, array in row.items())
        return cls(rows_per_step, tuple(described))

    def size(self) -> int:
        """Bytes of the whole."""
        return sum(self._sizes())

    def views(self, memory: mmap.mmap) -> Arrays:
        """Arrays of shape (RING_STEPS, rows_per_step, ...) in the memory."""
        found, start = {}, 0
        for (name, shape, dtype), size in zip(self.arrays, self._sizes(), strict=True):
            whole = (RING_STEPS, self.rows_per_step, *shape)
            found[name] = np.ndarray(whole, dtype, memory, start)
            start += size
        return found

    def _sizes(self) -> Iterator[int]:
        for _, shape, dtype in self.arrays:
            items = RING_STEPS * self.rows_per_step * int(np.prod(shape, dtype=np.int64))
            yield -(-items * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT


def open_loader(settings: LoopSettings, processes: int = 1) -> Loader:
    """A reader of the training split; ``processes`` share the memory beyond what steps need."""
    config = settings.config
    source = settings.data.source(
        settings.task,
        "train",
        cache_bytes=settings.cache_bytes // processes,
        disk=settings.disk_cache,
    )
    order = without(source.order(config.seed, config.num_lanes), config.skipped)
    return Loader(source, order, config.global_batch_size, config.micro_batch_size)


def serve(connection: Connection) -> None:
    """Make rows for a worker until it is gone, or something is wrong."""
    torch.set_num_threads(1)
    told: Told = connection.recv()
    settings, share = told.settings, told.share
    loader = open_loader(settings, share.processes)
    rows_per_step = len(loader.positions(0, share))
    streams = Streams(hash64(settings.config.seed, "sample"))
    memory: Arrays | None = None
    for samples in loader.read(share, told.first_step):
        step = connection.recv()
        for number, sample in enumerate(samples):
            row = prepared(settings, loader, sample, streams)
            if memory is None:
                memory = _share_memory(connection, Layout.of(row, rows_per_step))
            for name, value in row.items():
                memory[name][step % RING_STEPS, number] = value
        connection.send(len(samples))


def prepared(settings: LoopSettings, loader: Loader, sample: Sample, streams: Streams) -> Arrays:
    """One row: the task's arrays, and the weight where samples have one."""
    row = settings.task.prepare(sample, streams.at(sample.position))
    if loader.has_weights:
        row[WEIGHT] = np.array(sample.weight, np.float32)
    return row


def _share_memory(connection: Connection, layout: Layout) -> Arrays:
    """Memory of this layout, which the worker gets too."""
    descriptor = os.memfd_create("decoded")
    os.ftruncate(descriptor, layout.size())
    connection.send(layout)
    send_handle(connection, descriptor, os.getppid())
    memory = mmap.mmap(descriptor, layout.size())
    os.close(descriptor)
    return layout.views(memory)


def _told(error: Exception) -> Exception:
    """The error as the worker shall raise it: ours as it is, others with where they arose."""
    return error if isinstance(error, PipelineError) else RuntimeError(traceback.format_exc())


def main() -> None:
    """Serve the worker at the other end of the socket whose number is the first argument."""
    connection: Any = Connection(int(sys.argv[1]))
    try:
        serve(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the worker is gone; nobody waits for what is still being read
    except Exception as error:
        connection.send(_told(error))
