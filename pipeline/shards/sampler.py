"""The global order of samples: a pure function of counts, seed and position.

Position ``i`` is served by lane ``i mod num_lanes``. Lanes own shards round-robin and read them in
sequence; per lane and repeat the lane's shards are permuted, and the samples within each shard.
Lanes repeat independently, so a lane with fewer samples starts again earlier. Nothing depends on
how many workers read, and any position is found without visiting the ones before it. Orders of
several sources are joined in ``mixture``.

Dimension names: ``sample``.
"""

import bisect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from pipeline import draws
from pipeline.errors import ConfigError

OPEN_SHARDS_PER_LANE = 2


@dataclass(frozen=True)
class _Repeat:
    """One pass of one lane over its shards."""

    shards: list[int]
    """Shard numbers in reading order."""
    starts: list[int]
    """First offset of each shard in the pass, and the lane's length at the end."""


@runtime_checkable
class SampleOrder(Protocol):
    """Where each position lies; of one source or of several."""

    num_lanes: int

    def locate(self, positions: Int[np.ndarray, " sample"]) -> Int[np.ndarray, " sample 2"]:
        """Shard number and offset among the shard's kept samples, per position."""
        ...

    def times_read(self, shard: int, offset: int, num_positions: int) -> int:
        """How many of the first positions are one sample."""
        ...


class Order:
    """Where each position of the global order lies."""

    def __init__(self, counts: Sequence[int], seed: int, num_lanes: int) -> None:
        """Deal the shards to lanes.

        Args:
            counts: Kept samples per shard, in the manifest's order; shards without any are skipped.
            seed: Of the permutations.
            num_lanes: Fixed number of lanes (contract 16); at most the shards that hold samples.

        Raises:
            ConfigError: More lanes than shards with samples.
        """
        filled = [shard for shard, count in enumerate(counts) if count > 0]
        if not 1 <= num_lanes <= len(filled):
            raise ConfigError(
                f"num_lanes={num_lanes}: {len(filled)} of {len(counts)} shards hold kept samples, "
                "and each lane needs one; lower num_lanes (and with it the micro-batches of a "
                "step, which must divide it), or write smaller shards"
            )
        self.num_lanes = num_lanes
        self._counts = np.asarray(counts, np.int64)
        self._seed = seed
        self._lanes = [np.asarray(filled[lane::num_lanes]) for lane in range(num_lanes)]
        self._lengths = [int(self._counts[shards].sum()) for shards in self._lanes]
        self._repeats: OrderedDict[tuple[int, int], _Repeat] = OrderedDict()
        self._within: OrderedDict[tuple[int, int], Int[np.ndarray, " sample"]] = OrderedDict()

    def locate(self, positions: Int[np.ndarray, " sample"]) -> Int[np.ndarray, " sample 2"]:
        """Shard number and offset among the shard's kept samples, per position.

        Args:
            positions: Global positions, 0 or more, in any order.
        """
        found = np.empty((len(positions), 2), np.int64)
        lanes = positions % self.num_lanes
        for lane in np.unique(lanes):
            rows = np.flatnonzero(lanes == lane)
            indices = positions[rows] // self.num_lanes
            found[rows] = self._locate_in_lane(int(lane), indices)
        return found

    def times_read(self, shard: int, offset: int, num_positions: int) -> int:
        """How many of the first ``num_positions`` positions are one sample.

        Args:
            shard: Number of its shard, which holds kept samples.
            offset: Among the shard's kept samples.
            num_positions: Length of the reading, such as ``samples_seen``.
        """
        lane = next(lane for lane, shards in enumerate(self._lanes) if np.any(shards == shard))
        in_lane = max(0, -(-(num_positions - lane) // self.num_lanes))
        repeats, rest = divmod(in_lane, self._lengths[lane])
        reading = self._repeat(lane, repeats)
        start = reading.starts[reading.shards.index(shard)]
        within = int(np.flatnonzero(self._permutation(shard, repeats) == offset)[0])
        return repeats + (start + within < rest)

    def _locate_in_lane(
        self, lane: int, indices: Int[np.ndarray, " sample"]
    ) -> Int[np.ndarray, " sample 2"]:
        found = np.empty((len(indices), 2), np.int64)
        for row, index in enumerate(indices.tolist()):
            repeat, offset = divmod(index, self._lengths[lane])
            reading = self._repeat(lane, repeat)
            place = bisect.bisect_right(reading.starts, offset) - 1
            shard = reading.shards[place]
            within = self._permutation(shard, repeat)
            found[row] = shard, within[offset - reading.starts[place]]
        return found

    def _repeat(self, lane: int, repeat: int) -> _Repeat:
        known = self._repeats.get((lane, repeat))
        if known is None:
            shards = self._lanes[lane]
            shards = shards[_permutation(self._seed, f"lane/{lane}", repeat, len(shards))]
            starts = np.concatenate([[0], np.cumsum(self._counts[shards])])
            known = self._repeats[lane, repeat] = _Repeat(shards.tolist(), starts.tolist())
            _shrink(self._repeats, OPEN_SHARDS_PER_LANE * self.num_lanes)
        return known

    def _permutation(self, shard: int, repeat: int) -> Int[np.ndarray, " sample"]:
        known = self._within.get((shard, repeat))
        if known is None:
            count = int(self._counts[shard])
            known = _permutation(self._seed, f"shard/{shard}", repeat, count)
            self._within[shard, repeat] = known
            _shrink(self._within, OPEN_SHARDS_PER_LANE * self.num_lanes)
        return known


def _permutation(seed: int, purpose: str, repeat: int, count: int) -> Int[np.ndarray, " sample"]:
    # Raw words of a bit generator are stable across NumPy versions; Generator.permutation is not.
    words = draws.generator(seed, purpose, repeat).bit_generator.random_raw(count)
    found = np.argsort(words)  # twice as fast as a stable sort, and equal to it without ties
    ordered = words[found]
    tied = bool((ordered[1:] == ordered[:-1]).any())
    return np.argsort(words, kind="stable") if tied else found


def _shrink(cache: OrderedDict, size: int) -> None:
    while len(cache) > size:
        cache.popitem(last=False)


def micro_batch_positions(
    step: int, micro_batch: int, global_batch_size: int, micro_batch_size: int
) -> Int[np.ndarray, " sample"]:
    """Positions of one micro-batch: every so many-th of the step, starting at ``micro_batch``.

    Because the number of micro-batches divides the number of lanes, a micro-batch always reads the
    same lanes, and so does the worker that owns it.
    """
    per_step = global_batch_size // micro_batch_size
    start = step * global_batch_size + micro_batch
    return start + per_step * np.arange(micro_batch_size, dtype=np.int64)
