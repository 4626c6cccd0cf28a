"""The parts of every step of one worker: made in a thread of it, or by decoders.

A decoder has some of the worker's lanes, reads their shards, decodes and prepares the samples: here
as a process that writes them into memory it shares with the worker, or on another node
(``decoder_actor``). Every sample is a function of its position, so who makes it changes no bit. A
decoder ends when its worker is gone, whatever ended that; a worker whose decoder is gone says so
and ends.
"""

import mmap
import os
import pickle
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from socket import socketpair
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from pipeline.shards.loader import Loader, Share
from pipeline.training import decoder_child
from pipeline.training.batches import Part, groups_of, step_parts
from pipeline.training.decoder_actor import ActorDecoder
from pipeline.training.decoder_child import RING_STEPS, WEIGHT, Arrays, Layout, Told
from pipeline.training.settings import LoopSettings

# With -m its classes would be those of another module, __main__.
PROGRAM = f"from {decoder_child.__name__} import main; main()"
SETTLING_S = 10.0
"""Within which a decoder that has closed its socket has an exit code."""


def fed_parts(
    settings: LoopSettings, loader: Loader, first_step: int, rank: int, world: int
) -> Generator[list[Part], None, None]:
    """The parts of every step from ``first_step`` on, for one worker, without end.

    Closing the generator ends its decoders.

    Args:
        settings: The run; says how many decoders there are.
        loader: Of this worker.
        first_step: The step to begin with.
        rank: This worker.
        world: Number of workers.
    """
    task, config, pin = settings.task, settings.config, settings.device != "cpu"
    if not config.execution.decoders:
        yield from step_parts(task, loader, config, first_step, rank, world, pin=pin)
        return
    whole = Share(rank, world, by_position=task.whole_batch)
    shares = [
        replace(whole, number=number, processes=config.execution.decoders)
        for number in range(config.execution.decoders)
    ]
    kind = ActorDecoder if config.execution.decode_on == "cluster" else Decoder
    with ExitStack() as stack:
        decoders = [
            stack.enter_context(kind(Told(settings, share, first_step))) for share in shares
        ]
        for step in range(first_step, first_step + RING_STEPS):
            _ask(decoders, step)
        for step in count(first_step):
            made = [
                (loader.rows(step, share), decoder.rows(step))
                for share, decoder in zip(shares, decoders, strict=True)
            ]
            parts = [
                _part(number, rows, made, pin=pin) for number, rows in groups_of(loader, whole)
            ]
            _ask(decoders, step + RING_STEPS)
            yield parts


def _ask(decoders: Sequence["Decoder | ActorDecoder"], step: int) -> None:
    for decoder in decoders:
        decoder.ask(step)


def _part(
    number: int, rows: slice, made: Sequence[tuple[np.ndarray, Arrays]], *, pin: bool
) -> Part:
    """One part, its rows copied from where the decoders have made them.

    Args:
        number: The (first) micro-batch.
        rows: Of the worker's step.
        made: Per decoder, which of the worker's rows it made, ascending, and these.
        pin: Copy to where a GPU copies from without holding the host up.
    """
    size, batch = rows.stop - rows.start, {}
    for places, arrays in made:
        first, last = np.searchsorted(places, [rows.start, rows.stop])
        for name, array in arrays.items():
            if name not in batch:
                batch[name] = _empty((size, *array.shape[1:]), array.dtype, pin=pin)
            batch[name].numpy()[places[first:last] - rows.start] = array[first:last]
    return Part(number, batch, size, batch.pop(WEIGHT, None))


def _empty(shape: tuple[int, ...], dtype: np.dtype, *, pin: bool) -> Tensor:
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=kind, pin_memory=pin)


class Decoder:
    """One decoder, seen from its worker; a context manager."""

    def __init__(self, told: Told) -> None:
        """Start the process.

        In a session of its own: a signal to the worker's group is the worker's to answer, which may
        still need samples for a last step.
        """
        self._share = told.share
        self._memory: Arrays = {}
        ours, theirs = socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            )
        self._connection = Connection(ours.detach())
        # Its own pickler would leave tensors where only processes that we forked may fetch them.
        self._connection.send_bytes(pickle.dumps(told))

    def __enter__(self) -> "Decoder":
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, step: int) -> None:
        """Let it make a step's rows, in the place of those of ``RING_STEPS`` steps before."""
        with suppress(BrokenPipeError, ConnectionResetError):  # what it said is read first
            self._connection.send(step)

    def rows(self, step: int) -> Arrays:
        """The rows of a step that was asked for, until they are replaced.

        Raises:
            PipelineError: What the decoder found wrong.
            RuntimeError: Something else, or the process is gone.
        """
        try:
            answer = self._connection.recv()
            if isinstance(answer, Layout):
                self._memory = self._open(answer)
                answer = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise RuntimeError(self._ended()) from error
        if isinstance(answer, Exception):
            raise answer
        return {name: array[step % RING_STEPS, :answer] for name, array in self._memory.items()}

    def _open(self, layout: Layout) -> Arrays:
        descriptor = recv_handle(self._connection)
        memory = mmap.mmap(descriptor, layout.size())
        os.close(descriptor)
        return layout.views(memory)

    def _ended(self) -> str:
        code = self._process.wait(SETTLING_S)
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return (
            f"decoder {self._share.number} of {self._share.processes} of worker "
            f"{self._share.rank} (process {self.pid}) was ended {how}; where memory ran out, lower "
            "execution.decoders, or num_lanes, each of which holds a shard in memory"
        )
