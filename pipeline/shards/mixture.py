"""Several sources in one order: each position has its source, each source its own lanes.

Lane ``l`` of the whole belongs to the source that the pattern of quotas names at ``l mod period``.
The period divides the number of lanes, so position ``i`` is served by lane ``i mod num_lanes``
whatever is mixed: workers own lanes, reading stays sequential, and any position is found at once.
Shards of all sources are numbered one after another. Dimension names: ``sample``.
"""

import bisect
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Int

from pipeline.errors import ConfigError
from pipeline.shards.loader import Sample
from pipeline.shards.quotas import pattern
from pipeline.shards.sampler import Order
from pipeline.shards.shard_source import ShardSource


class MixedOrder:
    """Where each position of several sources lies."""

    def __init__(
        self, counts: Sequence[Sequence[int]], quotas: Sequence[int], seed: int, num_lanes: int
    ) -> None:
        """Deal the lanes to the sources, and the sources' shards to their lanes.

        Args:
            counts: Kept samples per shard, of each source.
            quotas: Positions of each source in a period.
            seed: Of the permutations.
            num_lanes: Lanes of all sources together.

        Raises:
            ConfigError: The period does not divide the lanes, or a source has too few shards.
        """
        period = sum(quotas)
        if num_lanes % period:
            raise ConfigError(
                f"num_lanes={num_lanes} is not a multiple of {period}, the period of a mixture of "
                f"{' : '.join(map(str, quotas))}; use such a multiple, or rounder weights"
            )
        self.num_lanes = num_lanes
        self._pattern = np.asarray(pattern(quotas))
        own = self._pattern[:, None] == np.arange(len(quotas))
        self._before = np.concatenate([[[0] * len(quotas)], own.cumsum(axis=0)])
        lanes = [num_lanes // period * quota for quota in quotas]
        self._orders = [
            _order(source, each, seed, own_lanes)
            for source, (each, own_lanes) in enumerate(zip(counts, lanes, strict=True))
        ]
        self._first_shards = _starts(counts)
        self._quotas = np.asarray(quotas)

    def source_of(self, positions: Int[np.ndarray, " sample"]) -> Int[np.ndarray, " sample 2"]:
        """Source of each position, and its position among those of that source."""
        periods, slots = np.divmod(positions, len(self._pattern))
        sources = self._pattern[slots]
        within = periods * self._quotas[sources] + self._before[slots, sources]
        return np.stack([sources, within], axis=1)

    def locate(self, positions: Int[np.ndarray, " sample"]) -> Int[np.ndarray, " sample 2"]:
        """Shard number (over all sources) and offset among its kept samples, per position.

        Args:
            positions: Global positions, 0 or more, in any order.
        """
        found = np.empty((len(positions), 2), np.int64)
        sources, within = self.source_of(positions).T
        for source, order in enumerate(self._orders):
            rows = np.flatnonzero(sources == source)
            found[rows] = order.locate(within[rows])
            found[rows, 0] += self._first_shards[source]
        return found

    def times_read(self, shard: int, offset: int, num_positions: int) -> int:
        """How many of the first ``num_positions`` positions are one sample.

        Args:
            shard: Number of its shard over all sources.
            offset: Among the shard's kept samples.
            num_positions: Length of the reading.
        """
        source = bisect.bisect_right(self._first_shards, shard) - 1
        periods, rest = divmod(num_positions, len(self._pattern))
        own = periods * int(self._quotas[source]) + int(self._before[rest, source])
        return self._orders[source].times_read(shard - self._first_shards[source], offset, own)


def _order(source: int, counts: Sequence[int], seed: int, num_lanes: int) -> Order:
    try:
        return Order(counts, seed, num_lanes)
    except ConfigError as error:
        raise ConfigError(f"source {source} of the mixture: {error}") from error


def _starts(counts: Sequence[Sequence[int]]) -> list[int]:
    return np.cumsum([0, *(len(each) for each in counts)]).tolist()[:-1]


class MixedSource:
    """Random access to the kept samples of one split of several data sets."""

    def __init__(self, sources: Sequence[ShardSource], quotas: Sequence[int]) -> None:
        """Join open sources.

        Args:
            sources: In the order of the mixture.
            quotas: Positions of each in a period.
        """
        self._sources, self._quotas = list(sources), list(quotas)
        self._first_shards = _starts([source.counts for source in sources])

    @property
    def counts(self) -> list[int]:
        """Kept samples per shard, of all sources one after another."""
        return [count for source in self._sources for count in source.counts]

    @property
    def has_weights(self) -> bool:
        """Whether some sample's loss weighs more than another's."""
        return any(source.has_weights for source in self._sources)

    def keys(self, shard: int, offsets: Sequence[int] | None = None) -> list[str]:
        """Keys of one shard's kept samples, or of some, without reading the samples."""
        source, own_shard = self._of(shard)
        return source.keys(own_shard, offsets)

    def sample(self, position: int, shard: int, offset: int) -> Sample:
        """The sample at an offset among a shard's kept ones."""
        source, own_shard = self._of(shard)
        return source.sample(position, own_shard, offset)

    def order(self, seed: int, num_lanes: int) -> MixedOrder:
        """The order in which a training reads it."""
        counts = [source.counts for source in self._sources]
        return MixedOrder(counts, self._quotas, seed, num_lanes)

    def held_out(self, seed: int, num_samples: int) -> Int[np.ndarray, " sample 2"]:
        """A few samples in the mixture's shares, each at most once.

        Where a source has too few, the others fill no place of its.
        """
        taken = [source.held_out(seed, num_samples) for source in self._sources]
        period = pattern(self._quotas)
        found, next_of = [], [0] * len(taken)
        for position in range(num_samples):
            source = period[position % len(period)]
            if next_of[source] < len(taken[source]):
                shard, offset = taken[source][next_of[source]].tolist()
                found.append([shard + self._first_shards[source], offset])
                next_of[source] += 1
        return np.asarray(found, np.int64).reshape(-1, 2)

    def announce(self, shards: Collection[int]) -> None:
        """Read these shards ahead, and keep them until another announcement leaves them out."""
        own: list[set[int]] = [set() for _ in self._sources]
        for shard in shards:
            source = bisect.bisect_right(self._first_shards, shard) - 1
            own[source].add(shard - self._first_shards[source])
        for source, announced in zip(self._sources, own, strict=True):
            source.announce(announced)

    def _of(self, shard: int) -> tuple[ShardSource, int]:
        source = bisect.bisect_right(self._first_shards, shard) - 1
        return self._sources[source], shard - self._first_shards[source]
