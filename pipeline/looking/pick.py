"""Random samples of parts of a data set: a query's, a drop reason's, a score band's, a bound's.

Every part is counted exactly and shown by a few samples that are drawn by hash, so that the same
seed shows the same ones.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.looking.asked import Band, Near
from pipeline.looking.drawn import Drawn
from pipeline.looking.scores import KEPT, Bound, Mask, Scored, ScoredShard


class Place(NamedTuple):
    """Where a sample lies."""

    shard: int
    key: str


@dataclass
class Part:
    """Samples for which ``holds`` is true: how many, what became of them, a few drawn by hash."""

    title: str
    holds: Callable[[ScoredShard], Mask]
    drawn: Drawn[Place]
    profiles: Sequence[str]
    note: str = ""
    sort_by: str | None = None
    """Score by which the drawn ones are shown, rising; None leaves the order of the draws."""
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """Per profile: samples of this part per outcome."""

    @property
    def count(self) -> int:
        """Samples of this part."""
        return self.drawn.offered

    def add(self, shard: ScoredShard) -> None:
        """Count and draw from one more shard."""
        found = np.flatnonzero(self.holds(shard))
        keys = shard.table["key"].take(found).to_pylist()
        self.drawn.offer(keys, [Place(shard.number, key) for key in keys])
        for profile in self.profiles:
            counted = shard.outcomes[profile].take(found).value_counts().to_pylist()
            counts = self.outcomes.setdefault(profile, Counter())
            counts.update({each["values"]: each["counts"] for each in counted})


class Parts:
    """Makes the parts that a curator asked for."""

    def __init__(self, scored: Scored, number: int, seed: int, profiles: Sequence[str]) -> None:
        """Draw ``number`` samples of each part."""
        self._scored, self._number, self._seed = scored, number, seed
        self._profiles = profiles

    def anything(self) -> Part:
        """All samples of the data set."""
        return self._part("All samples", lambda shard: np.ones(shard.table.num_rows, bool))

    def query(self, query: str, query_id: int) -> Part:
        """Samples that contain a query."""
        return self._part(f"Query “{query}”", lambda shard: shard.of_query(query_id))

    def reason(self, profile: str, reason: str) -> Part:
        """Samples that a profile drops for a reason."""
        title = f"Profile {profile}: {_words(reason)}"
        return self._part(title, lambda shard: shard.dropped_for(profile, reason))

    def band(self, band: Band) -> Part:
        """Samples of a score band."""
        self._scored.require_score(band.score)

        def holds(shard: ScoredShard) -> Mask:
            values = shard.values(band.score)
            return (values >= band.low) & (values < band.high)

        part = self._part(f"{band.score} from {band.low:g} up to {band.high:g}", holds)
        part.sort_by = band.score
        return part

    def near(self, near: Near) -> list[Part]:
        """Samples just below and just above a bound: what a change would keep or drop."""
        self._scored.require_score(near.score)
        set_now = [bound for bound in self._scored.bounds() if bound.column == near.score]
        set_now = [bound for bound in set_now if bound.profile in self._profiles]
        is_upper = bool(set_now) and all(bound.least is None for bound in set_now)
        ends = (near.bound - near.change, near.bound, near.bound + near.change)
        low, bound, high = (round(end, 12) for end in ends)  # 0.28 + 0.02 is no 0.3
        below = self._side(near.score, low, bound, is_upper)
        above = self._side(near.score, bound, high, is_upper)
        added, lost = (above, below) if is_upper else (below, above)
        loose, strict = (high, low) if is_upper else (low, high)
        added.title = f"Passes only with {_says(near.score, loose, is_upper)}: {added.title}"
        lost.title = f"Falls with {_says(near.score, strict, is_upper)}: {lost.title}"
        now = "; ".join(f"{each.profile} has {each.says()}" for each in set_now)
        added.note = lost.note = now or f"no profile bounds {near.score} now"
        return [added, lost]

    def _side(self, score: str, low: float, high: float, is_upper: bool) -> Part:
        """One side of a bound; a sample on an edge is on the side on which the bound leaves it."""

        def holds(shard: ScoredShard) -> Mask:
            values = shard.values(score)
            if is_upper:
                return (values > low) & (values <= high)
            return (values >= low) & (values < high)

        title = f"{score} above {low:.6g} up to {high:.6g}" if is_upper else ""
        part = self._part(title or f"{score} from {low:.6g} to below {high:.6g}", holds)
        part.sort_by = score
        return part

    def _part(self, title: str, holds: Callable[[ScoredShard], Mask]) -> Part:
        return Part(title, holds, Drawn(self._number, self._seed), self._profiles)


def say_outcomes(outcomes: Mapping[str, Counter[str]]) -> str:
    """What the profiles made of samples: ``generative keeps 12, drops 3 (low similarity 3)``."""
    return "; ".join(_outcome(profile, counts) for profile, counts in sorted(outcomes.items()))


def _outcome(profile: str, counts: Counter[str]) -> str:
    reasons = {name: count for name, count in sorted(counts.items()) if name != KEPT}
    said = f"{profile} keeps {counts[KEPT]:,}"
    if not reasons:
        return said
    named = ", ".join(f"{_words(name)} {count:,}" for name, count in reasons.items())
    return f"{said}, drops {sum(reasons.values()):,} ({named})"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _says(score: str, value: float, is_upper: bool) -> str:
    limits = (None, value) if is_upper else (value, None)
    return Bound("", score, *limits).says()
