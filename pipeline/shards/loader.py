"""Samples for training, in the global order, from wherever they lie.

A worker computes some micro-batches of every step, which always read the same lanes; one process,
or several that have some of those lanes each, make its rows.

Dimension names: ``dim`` (joint embedding), ``side`` (pixels), ``row`` (of a worker's step).
"""

import queue
import threading
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8

from pipeline.shards.sampler import SampleOrder, micro_batch_positions

STEPS_READ_AHEAD = 4


@dataclass(frozen=True)
class Sample:
    """What a task may read of one position of the global order."""

    position: int
    key: str
    image: UInt8[np.ndarray, " side side 3"] | None
    """The view's picture in the side that the task asks for, RGB; None where it reads none."""
    captions: tuple[str, ...]
    text_tokens: tuple[Int64[np.ndarray, " _"], ...]
    """Ids of each caption, unpadded; empty without embeddings."""
    z_img: Float32[np.ndarray, " dim"] | None
    """Raw image embedding, not normalised."""
    z_txt: tuple[Float32[np.ndarray, " dim"], ...]
    """Raw text embedding per caption, in caption order."""
    weight: float = 1.0
    """What its loss is multiplied by; 1 on the mean of its keep-list."""


@runtime_checkable
class SampleSource(Protocol):
    """Random access to the kept samples of one split, of one data set or of several."""

    @property
    def counts(self) -> list[int]:
        """Kept samples per shard."""
        ...

    @property
    def has_weights(self) -> bool:
        """Whether some sample's loss weighs more than another's."""
        ...

    def keys(self, shard: int, offsets: Sequence[int] | None = None) -> list[str]:
        """Keys of one shard's kept samples, or of some, without reading the samples."""
        ...

    def sample(self, position: int, shard: int, offset: int) -> Sample:
        """The sample at an offset among a shard's kept ones."""
        ...

    def order(self, seed: int, num_lanes: int) -> SampleOrder:
        """The order in which a training reads it."""
        ...

    def held_out(self, seed: int, num_samples: int) -> Int[np.ndarray, " sample 2"]:
        """Shards and offsets of a few samples, each at most once: those that validation reads."""
        ...

    def announce(self, shards: Collection[int]) -> None:
        """Read these shards ahead, and keep them until another announcement leaves them out."""
        ...


@dataclass(frozen=True)
class Share:
    """Which rows of every step one process makes: some lanes of one worker's."""

    rank: int = 0
    """The worker."""
    world: int = 1
    """Number of workers."""
    number: int = 0
    """Of the process among those that share the worker's lanes."""
    processes: int = 1
    """How many share them."""
    by_position: bool = False
    """The worker's rows of a step are one group in order of position, not micro-batches in turn."""


class Loader:
    """What each worker, and each process of it, reads of the global order."""

    def __init__(
        self,
        source: SampleSource,
        order: SampleOrder,
        global_batch_size: int,
        micro_batch_size: int,
    ) -> None:
        """Join a source and an order.

        Args:
            source: Where samples are read.
            order: Which sample each position is.
            global_batch_size: Samples of one step.
            micro_batch_size: Samples of one micro-batch; divides the global batch.
        """
        self._source, self._order = source, order
        self._num_lanes = order.num_lanes
        self._batch, self.micro_batch_size = global_batch_size, micro_batch_size
        self.per_step = global_batch_size // micro_batch_size
        """Micro-batches of a step."""
        self.has_weights = source.has_weights
        """Whether some sample's loss weighs more than another's."""

    def owned(self, rank: int, world: int) -> list[int]:
        """Numbers of the micro-batches that a worker computes in every step."""
        return list(range(rank, self.per_step, world))

    def positions(self, step: int, share: Share) -> Int[np.ndarray, " row"]:
        """Positions of the rows of a step that a worker computes, whoever makes them."""
        owned = [
            micro_batch_positions(step, number, self._batch, self.micro_batch_size)
            for number in self.owned(share.rank, share.world)
        ]
        found = np.concatenate(owned)
        return np.sort(found) if share.by_position else found

    def rows(self, step: int, share: Share) -> Int[np.ndarray, " own_row"]:
        """Which of the worker's rows of a step one process makes: those of its lanes.

        The worker's lanes are dealt to its processes in turn, so that each reads its own shards.
        """
        lanes = self.positions(step, share) % self._num_lanes
        rounds, numbers = np.divmod(lanes, self.per_step)
        owned = len(self.owned(share.rank, share.world))
        place = rounds * owned + numbers // share.world  # of the lane among the worker's own
        return np.flatnonzero(place % share.processes == share.number)

    def read(self, share: Share, first_step: int) -> Iterator[list[Sample]]:
        """The samples of one process's rows of every step, without end; shards are read ahead."""
        # In so many steps every lane is read at least once: what they need is all that must stay.
        window = -(-self._num_lanes // self._batch) + STEPS_READ_AHEAD
        ahead: deque[tuple[list[int], list[list[int]]]] = deque()
        for step in count(first_step):
            while len(ahead) < window:
                coming = step + len(ahead)
                positions = self.positions(coming, share)[self.rows(coming, share)]
                ahead.append((positions.tolist(), self._order.locate(positions).tolist()))
            self._source.announce({shard for _, places in ahead for shard, _ in places})
            positions, places = ahead.popleft()
            yield [
                self._source.sample(position, shard, offset)
                for position, (shard, offset) in zip(positions, places, strict=True)
            ]

    def keys(self, step: int) -> list[str]:
        """Keys of a whole step over all workers, in order of position; reads no sample."""
        return self.keys_of(np.arange(step * self._batch, (step + 1) * self._batch, dtype=np.int64))

    def keys_of(self, positions: Int[np.ndarray, " sample"]) -> list[str]:
        """Keys of some positions; reads no sample."""
        places = self._order.locate(positions)
        found = np.empty(len(places), object)
        for shard in np.unique(places[:, 0]):
            rows = np.flatnonzero(places[:, 0] == shard)
            found[rows] = self._source.keys(int(shard), places[rows, 1].tolist())
        return found.tolist()


Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Make up to ``depth`` items ahead in a thread; its errors surface here.

    Closing the generator ends the thread.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    closed = threading.Event()
    thread = threading.Thread(
        target=_fill, args=(items, waiting, closed), name="prefetch", daemon=True
    )
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        closed.set()
        thread.join()


def _fill(items: Iterable[Any], waiting: queue.Queue[Any], closed: threading.Event) -> None:
    try:
        for item in items:
            if not _offer(waiting, closed, (item, None)):
                return
        _offer(waiting, closed, (_END, None))
    except BaseException as error:
        _offer(waiting, closed, (_END, error))  # raised again by the consumer


def _offer(waiting: queue.Queue[Any], closed: threading.Event, entry: tuple[Any, Any]) -> bool:
    while not closed.is_set():
        try:
            waiting.put(entry, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
