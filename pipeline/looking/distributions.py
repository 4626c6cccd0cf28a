"""How scores are distributed, and how many samples every bound would keep.

Two passes over the score tables: ends, then counts between a thousand edges. Counts at an edge are
exact, as are those at the profiles' own bounds; memory does not grow with the number of samples.
Dimension names: ``bin``, ``edge``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64

from pipeline.looking.scores import OVERLAP_COSINE, Bound, Scored, ScoredShard

NUM_BINS = 1_000
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)

Counts = Int64[np.ndarray, " bin"]


@dataclass
class Distribution:
    """One score over all samples."""

    column: str
    edges: Float64[np.ndarray, " edge"]
    """Rising; one more than bins."""
    is_upper: bool
    """Whether a bound keeps what is at most the bound; else what is at least the bound."""
    counts: Counts
    """All samples per bin."""
    reached: dict[str, Counts]
    """Per profile: samples it keeps or drops for a bound on this score alone, per bin."""
    bounds: list[Bound]
    num_missing: int = 0
    passing: dict[str, int] = field(default_factory=dict)
    """Per profile with a bound on this score: samples of all that pass it."""

    @property
    def num(self) -> int:
        """Samples that have this score."""
        return int(self.counts.sum())

    @property
    def is_constant(self) -> bool:
        """Whether all samples have the same."""
        return len(self.counts) == 1

    def kept_by_edge(self, counts: Counts) -> Int64[np.ndarray, " edge"]:
        """For every edge, how many samples a bound there keeps."""
        if self.is_upper:
            return np.concatenate([[0], np.cumsum(counts)])
        return np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])

    def quantile(self, share: float) -> float:
        """The bin in which so large a share of the samples is reached, by the edge it holds."""
        reached = np.cumsum(self.counts) >= max(1, round(share * self.num))
        return float(self.edges[int(np.argmax(reached)) + self.is_upper])


def measure(scored: Scored, profiles: Sequence[str] | None = None) -> list[Distribution]:
    """The distribution of every score that has at least one finite value.

    Args:
        scored: The run.
        profiles: Keep-lists to tell apart; all by default.
    """
    names = scored.profiles if profiles is None else list(profiles)
    bounds = [bound for bound in scored.bounds() if bound.profile in names]
    ends: dict[str, tuple[float, float]] = {}
    for shard in scored:
        for column in scored.columns:
            _widen(ends, column, shard)
    found = [
        _empty(column, ends[column], [b for b in bounds if b.column == column], names)
        for column in scored.columns
        if column in ends
    ]
    for shard in scored:
        for distribution in found:
            _add(distribution, shard)
    return found


def _widen(ends: dict[str, tuple[float, float]], column: str, shard: ScoredShard) -> None:
    values = shard.values(column)
    values = values[np.isfinite(values)]
    if len(values):
        low, high = ends.get(column, (np.inf, -np.inf))
        ends[column] = (min(low, float(values.min())), max(high, float(values.max())))


def _empty(
    column: str, ends: tuple[float, float], bounds: list[Bound], profiles: Sequence[str]
) -> Distribution:
    is_upper = column == OVERLAP_COSINE or (
        bool(bounds) and all(bound.least is None for bound in bounds)
    )
    edges = _edges(*ends, is_upper)
    nothing = np.zeros(len(edges) - 1, np.int64)
    reached = {name: nothing.copy() for name in profiles}
    passing = {bound.profile: 0 for bound in bounds}
    return Distribution(column, edges, is_upper, nothing, reached, bounds, passing=passing)


def _edges(low: float, high: float, is_upper: bool) -> Float64[np.ndarray, " edge"]:
    """A bin per whole number where few are enough, else a thousand of one width.

    A bound on the first edge keeps everything, on the last nothing (or the other way round).
    """
    if low.is_integer() and high.is_integer() and high - low < NUM_BINS:
        return np.arange(low, high + 2) - is_upper
    if high <= low:
        width = max(1e-6, abs(low) * 1e-3)
        return np.array([low - width, low] if is_upper else [low, low + width])
    if is_upper:
        return np.linspace(np.nextafter(low, -np.inf), high, NUM_BINS + 1)
    return np.linspace(low, np.nextafter(high, np.inf), NUM_BINS + 1)


def _add(found: Distribution, shard: ScoredShard) -> None:
    values = shard.values(found.column)
    finite = np.isfinite(values)
    found.num_missing += int(np.count_nonzero(~finite))
    found.counts = found.counts + _binned(found, values[finite])
    for profile, counts in found.reached.items():
        reached = shard.is_kept(profile) | _only_for(shard, profile, found.bounds)
        found.reached[profile] = counts + _binned(found, values[finite & reached])
    for bound in found.bounds:
        found.passing[bound.profile] += int(np.count_nonzero(bound.passes(values)))


def _only_for(
    shard: ScoredShard, profile: str, bounds: Sequence[Bound]
) -> Bool[np.ndarray, " sample"]:
    """Samples that a profile drops for its bound on one score."""
    found = np.zeros(shard.table.num_rows, bool)
    for bound in bounds:
        if bound.profile == profile:
            found |= shard.dropped_for(profile, bound.reason)
    return found


def _binned(found: Distribution, values: Float64[np.ndarray, " sample"]) -> Counts:
    """Values per bin; one on an edge counts where a bound at this edge keeps it."""
    side = "left" if found.is_upper else "right"
    places = np.searchsorted(found.edges, values, side=side) - 1
    places = np.clip(places, 0, len(found.edges) - 2)
    return np.bincount(places, minlength=len(found.edges) - 1).astype(np.int64)


def rebinned(found: Distribution, num_bars: int) -> tuple[list[float], list[int]]:
    """Edges and counts of a histogram of few bars, each of whole bins."""
    bins = len(found.counts)
    cuts = np.unique(np.linspace(0, bins, min(num_bars, bins) + 1).round().astype(int))
    sums = np.add.reduceat(found.counts, cuts[:-1])
    return [float(found.edges[cut]) for cut in cuts], [int(count) for count in sums]
