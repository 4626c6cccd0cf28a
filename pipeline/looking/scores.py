"""Scores and decisions of a finished run: every sample's numbers, and what each profile made of it.

The one place that knows where score tables lie: under the stage ``score`` where the run has one, as
its manifest lists them, else under ``select``; of a run that has neither, sizes and similarities
are put together from the shards' tables and the embeddings. One shard is in memory at a time.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds
from jaxtyping import Bool, Float64

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.disk_cache import read_verified
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.manifest import parquet_name
from pipeline.shards.writer import read_table

KEPT = "kept"
SIDE, SIMILARITY, OVERLAP = "side_px", "similarity", "overlap_"
OVERLAP_SET, OVERLAP_BITS, OVERLAP_COSINE = "overlap_set", "overlap_bits", "overlap_cosine"
DECIDED = ["key", "split", "drop_reason"]
REASONS = {SIDE: "too_small", SIMILARITY: "low_similarity"}
"""Drop reason by column; of any other column ``out_of_bounds_<column>``."""

Mask = Bool[np.ndarray, " sample"]


@dataclass(frozen=True)
class Bound:
    """What a profile demands of one score."""

    profile: str
    column: str
    least: float | None
    most: float | None

    @property
    def reason(self) -> str:
        """Why samples beyond it are dropped."""
        if self.column.startswith(OVERLAP):
            return "evaluation_overlap"
        return REASONS.get(self.column, f"out_of_bounds_{self.column}")

    def says(self) -> str:
        """``similarity ≥ 0.28``."""
        least = "" if self.least is None else f" ≥ {self.least:g}"
        most = "" if self.most is None else f" ≤ {self.most:g}"
        return f"{self.column}{least}{most}"

    def passes(self, values: Float64[np.ndarray, " sample"]) -> Mask:
        """Which values are within; a missing one is not, unless it is a missing overlap."""
        missing = np.isnan(values)
        found = np.ones(len(values), bool)
        if self.least is not None:
            found &= values >= self.least
        if self.most is not None:
            found &= values <= self.most
        return found | missing if self.column.startswith(OVERLAP) else found & ~missing


@dataclass(frozen=True)
class ScoredShard:
    """The rows of one shard, in its order."""

    number: int
    table: pa.Table
    """``key, queries``, one column per score, and whatever else the run's tables hold."""
    outcomes: Mapping[str, pa.ChunkedArray]
    """Per profile: ``kept``, or the drop reason."""
    splits: Mapping[str, pa.ChunkedArray]
    """Per profile: the split."""

    @property
    def keys(self) -> list[str]:
        """Sample keys."""
        return self.table["key"].to_pylist()

    def values(self, column: str) -> Float64[np.ndarray, " sample"]:
        """One score of every sample, NaN where it is missing."""
        return self.table[column].cast(pa.float64()).to_numpy().astype(np.float64)

    def is_kept(self, profile: str) -> Mask:
        """Which samples a profile keeps."""
        return self.dropped_for(profile, KEPT)

    def dropped_for(self, profile: str, outcome: str) -> Mask:
        """Which samples a profile drops for a reason."""
        equal = pc.call_function("equal", [self.outcomes[profile], pa.scalar(outcome)])
        return np.asarray(equal.to_numpy(), bool)

    def of_query(self, query: int) -> Mask:
        """Which samples contain a query, by its id."""
        lists = self.table["queries"].combine_chunks()
        holds = pc.call_function("equal", [lists.flatten(), pa.scalar(query, pa.uint32())])
        found = np.zeros(self.table.num_rows, bool)
        found[pc.call_function("list_parent_indices", [lists]).filter(holds).to_numpy()] = True
        return found


class Scored:
    """What is known of every sample of a run, shard by shard."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        """Stand on a run's finished stages, ``curate`` among them.

        Raises:
            ConfigError: There is no data set.
        """
        if "curate" not in results:
            raise ConfigError(
                "this run has no finished data set to look at: run its stage curate first"
            )
        self.dataset = CuratedDataset(results["curate"])
        self._selected = results.get("select")
        self._scores = results.get("score")
        embedded = results.get("embed")
        self.embedded = None if embedded is None else EmbeddedDataset(embedded, self.dataset)
        self._keep: dict[str, Any] = {}
        if self._selected is not None:
            self._keep = dict(self._selected.content["profiles"])
        self.columns: list[str] = _numeric(self._table(0)) if self.dataset.shards else []
        """Names of the scores, similarity and side first."""

    @property
    def profiles(self) -> list[str]:
        """Names of the keep-lists."""
        return sorted(self._keep)

    @property
    def num_samples(self) -> int:
        """Samples of all shards."""
        return sum(int(entry["num_samples"]) for entry in self.dataset.shards)

    def require_score(self, column: str) -> None:
        """Refuse a score that no table holds.

        Raises:
            ConfigError: Names those that are there.
        """
        if column not in self.columns:
            raise ConfigError(
                f"{column!r} is no score of this run; there are: {', '.join(self.columns)}"
            )

    def require_profile(self, profile: str) -> None:
        """Refuse a profile that the run has no keep-list of.

        Raises:
            ConfigError: Names those that are there.
        """
        if profile not in self._keep:
            there = ", ".join(self.profiles) or "none; run select first"
            raise ConfigError(f"--profile {profile}: no keep-list of that name; there are: {there}")

    def num_outcomes(self, profile: str) -> dict[str, int]:
        """Samples per outcome of one profile, as its manifest counts them: kept, then reasons."""
        entry = self._keep[profile]
        return {KEPT: sum(entry["kept"].values()), **entry["dropped"]}

    def num_kept(self, profile: str) -> dict[str, int]:
        """Kept samples per split of one profile."""
        return dict(self._keep[profile]["kept"])

    def bounds(self) -> list[Bound]:
        """What the profiles demand of scores."""
        if self._selected is None:
            return []
        config = self._selected.manifest["config"].get("profiles", {})
        return [
            bound
            for name in self.profiles
            for bound in _bounds(name, config.get(name, {}), self._keep[name])
            if bound.column in self.columns
        ]

    def __iter__(self) -> Iterator[ScoredShard]:
        """Every shard, in order."""
        return (self.shard(number) for number in range(len(self.dataset.shards)))

    def shard(self, number: int) -> ScoredShard:
        """One shard's scores, with each profile's decisions.

        Raises:
            DataError: A keep-list holds other rows than the score table.
        """
        table = self._table(number)
        outcomes: dict[str, pa.ChunkedArray] = {}
        splits: dict[str, pa.ChunkedArray] = {}
        for profile in self.profiles:
            decided = self._decided(profile, number)
            if not decided["key"].equals(table["key"].cast(pa.string())):
                raise DataError(
                    f"profile {profile}: its keep-list holds other rows of shard {number} than the "
                    "score table; run select again"
                )
            outcomes[profile] = decided["drop_reason"].fill_null(KEPT)
            splits[profile] = decided["split"]
        return ScoredShard(number, table, outcomes, splits)

    def _table(self, number: int) -> pa.Table:
        if self._scores is not None:
            entry = self._scores.content["scores"][number]
            content = read_verified(storage.join(self._scores.uri, entry["name"]), entry["sha256"])
            return pq.read_table(io.BytesIO(content))
        if self._selected is not None:
            name = parquet_name(self.dataset.shards[number]["name"])
            uri = storage.join(self._selected.uri, "scores", name)
            if storage.exists(uri):
                return read_table(uri)
        rows = self.dataset.rows(number, ["key", "width", "height", "queries"])
        sides = pc.call_function("min_element_wise", [rows["width"], rows["height"]])
        columns = {"key": rows["key"], "queries": rows["queries"], SIDE: sides}
        if self.embedded is not None:
            columns[SIMILARITY] = _best(self.embedded.table(number, ["similarity"])["similarity"])
        return pa.table(columns)

    def _decided(self, profile: str, number: int) -> pa.Table:
        assert self._selected is not None
        uri = storage.join(self._selected.uri, self._keep[profile]["name"])
        shard = self.dataset.shards[number]["name"]
        with storage.open_for_read(uri) as file:
            return pq.read_table(file, columns=DECIDED, filters=[("shard", "=", shard)])


def _numeric(table: pa.Table) -> list[str]:
    numeric = [
        field.name
        for field in table.schema
        if kinds.is_integer(field.type) or kinds.is_floating(field.type)
    ]
    return sorted(numeric, key=lambda name: (name != SIMILARITY, name != SIDE, name))


def _best(similarity: pa.ChunkedArray) -> pa.Array:
    """The cosine of each sample's best caption."""
    found = [max(values, default=-1.0) for values in similarity.to_pylist()]
    return pa.array(found, pa.float32())


def _bounds(profile: str, config: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Bound]:
    """A profile's demands, in the order in which they are stated."""
    found = []
    least = entry.get("min_similarity", config.get("min_similarity"))
    if least is not None:  # a share of the best has its bound in the manifest
        found.append(Bound(profile, SIMILARITY, float(least), None))
    if config.get("min_side_px", 1) > 1:
        found.append(Bound(profile, SIDE, float(config["min_side_px"]), None))
    for column, limits in config.get("bounds", {}).items():
        found.append(Bound(profile, column, limits.get("min"), limits.get("max")))
    if config.get("max_overlap_bits") is not None:
        found.append(Bound(profile, OVERLAP_BITS, float(config["max_overlap_bits"]) + 1, None))
    if config.get("min_overlap_cosine") is not None:
        below = float(np.nextafter(config["min_overlap_cosine"], -1.0))
        found.append(Bound(profile, OVERLAP_COSINE, None, below))
    return found
