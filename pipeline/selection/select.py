"""Select: scores → one keep-list per profile, every sample with its reason.

Cheap, and done as often as one likes: columns of the score tables are read span by span, decisions
are made over whole columns, and no embedding is opened unless a profile reweights. A sample is
kept, or has exactly one of the reasons of ``thresholds``. What is held of every sample is one byte
for its fate, one for its split and, where a profile reweights, its weight.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, UInt8

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.selection import balance, reweight, thresholds
from pipeline.selection.columns import Columns, Span
from pipeline.selection.duplicates import SemanticDuplicates
from pipeline.selection.thresholds import KEPT, OVER_QUERY_LIMIT, SEMANTIC_DUPLICATE
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import SCHEMA, SPLITS, splits_of, write_keep_list
from pipeline.shards.score_files import ScoredDataset
from pipeline.shards.select_config import ProfileConfig, SelectConfig


def select(
    config: SelectConfig, inputs: dict[str, Result], uri: str, progress: Progress
) -> StageOutput:
    """Make the keep-lists.

    Args:
        config: The stage's section.
        inputs: Finished ``curate`` and ``score``, and ``embed`` where a profile reweights.
        uri: Folder for the keep-lists.
        progress: Where to tell people how far it is.

    Raises:
        ConfigError: A profile asks for scores that were not made.
        DataError: The scores belong to other shards, or a file is damaged.
    """
    started = time.time()
    dataset = CuratedDataset(inputs["curate"])
    columns = Columns(ScoredDataset(inputs["score"], dataset))
    embedded = None
    if config.reweights():
        embedded = EmbeddedDataset(inputs["embed"], dataset)
    check_scores(config, columns.scored)
    with progress.stage("select", total=len(config.profiles), unit="profiles") as bar:
        selection = Selection(config, columns, embedded)
        profiles = {}
        for name, profile in sorted(config.profiles.items()):
            profiles[name] = selection.write(name, profile, uri)
            bar.advance(1)
    content = {"profiles": profiles, "splits": selection.split_facts}
    return StageOutput(content, [(started, time.time())])


def check_scores(config: SelectConfig, scored: ScoredDataset) -> None:
    """Refuse profiles that ask for what was not scored.

    Raises:
        ConfigError: Names profile, key and remedy.
    """
    floor = None if scored.semantic is None else float(scored.semantic["floor"])
    has_sets = "overlap_bits" in scored.histograms
    if told := config.unscored(scored.columns, floor, has_sets=has_sets):
        raise ConfigError(told)


@dataclass(frozen=True)
class Decided:
    """The fate of every sample in one profile."""

    codes: UInt8[np.ndarray, " row"]
    """``KEPT``, or 1 + the place of the reason."""
    weights: Float32[np.ndarray, " row"] | None
    reasons: list[str]
    min_similarity: float | None
    """The bound that was used, also where a share was asked for."""


class Selection:
    """What all profiles of a selection share."""

    def __init__(
        self, config: SelectConfig, columns: Columns, embedded: EmbeddedDataset | None
    ) -> None:
        """Read the pairs of duplicates and draw the splits.

        Args:
            config: The stage's section.
            columns: The scores.
            embedded: Needed where a profile reweights.
        """
        self._config, self._columns, self._embedded = config, columns, embedded
        bound = config.split_min_cosine()
        self._duplicates = None if bound is None else SemanticDuplicates(columns, bound)
        shared = {} if self._duplicates is None else self._duplicates.representatives(config.split)
        self._splits = self._draw_splits(shared)
        self.split_facts = {"min_cosine": bound, "num_clusters_joined": len(shared)}
        """From which cosine on splits part nothing, and how many clusters follow another one."""

    def write(self, name: str, profile: ProfileConfig, uri: str) -> dict[str, Any]:
        """Publish one keep-list and return its manifest entry."""
        decided = self.decide(profile)
        file_name = f"keep/{name}.parquet"
        names = [str(entry["shard"]) for entry in self._columns.scored.entries]
        entry = write_keep_list(storage.join(uri, file_name), names, self._tables(decided, names))
        counts = np.bincount(decided.codes, minlength=1 + len(decided.reasons))[1:]
        dropped = dict(zip(decided.reasons, counts.tolist(), strict=True))
        return {
            "name": file_name,
            "kept": {s: sum(each[f"num_kept_{s}"] for each in entry["shards"]) for s in SPLITS},
            "dropped": {reason: dropped[reason] for reason in sorted(dropped) if dropped[reason]},
            "min_similarity": decided.min_similarity,
            **entry,
        }

    def decide(self, profile: ProfileConfig) -> Decided:
        """The fate of every sample in one profile."""
        columns, config = self._columns, self._config
        similarity = thresholds.min_similarity(profile, columns)
        codes = thresholds.refuse(profile, config, similarity, columns)
        if profile.semantic_min_cosine is not None:
            assert self._duplicates is not None
            fallen = self._duplicates.fallen(codes == KEPT, profile.semantic_min_cosine)
            codes[fallen] = thresholds.code_of(profile, SEMANTIC_DUPLICATE)
        if profile.max_per_query is not None:
            over = balance.over_limit(columns, codes, profile, config.split.seed)
            codes[over] = thresholds.code_of(profile, OVER_QUERY_LIMIT)
        weights = None
        if profile.reweight is not None:
            assert self._embedded is not None
            kept = codes == KEPT
            weights = reweight.weights(columns, self._embedded, kept, profile.reweight)
        bound = None if similarity == -np.inf else similarity
        return Decided(codes, weights, thresholds.reasons(profile), bound)

    def _draw_splits(self, shared: dict[str, str]) -> UInt8[np.ndarray, " row"]:
        """The split of every sample's cluster, or of the cluster that stands for it."""
        found = np.empty(self._columns.num_rows, np.uint8)

        def draw(span: Span, table: pa.Table) -> None:
            clusters: list[str] = table["cluster"].to_pylist()  # type: ignore[assignment]
            if shared:
                clusters = [shared.get(cluster, cluster) for cluster in clusters]
            found[span.rows] = splits_of(clusters, self._config.split)

        for _ in self._columns.map(["cluster"], draw):
            pass
        return found

    def _tables(self, decided: Decided, names: list[str]) -> Iterator[pa.Table]:
        """The rows of each shard, from spans of many."""
        reasons = pa.array([None, *decided.reasons], pa.string())

        def rows(span: Span, table: pa.Table) -> tuple[Span, pa.Table]:
            codes, count = decided.codes[span.rows], table.num_rows
            bounds = self._columns.first_rows[span.first : span.after + 1]
            ones = np.ones(count, np.float32)
            columns = {
                "shard": pa.array(names[span.first : span.after], pa.string()).take(
                    pa.array(np.repeat(np.arange(span.after - span.first), np.diff(bounds)))
                ),
                "key": table["key"],
                "kept": pa.array(codes == KEPT),
                "split": pa.array(SPLITS).take(pa.array(self._splits[span.rows])),
                "drop_reason": reasons.take(pa.array(codes)),
                "similarity": table["similarity"],
                "weight": ones if decided.weights is None else decided.weights[span.rows],
            }
            return span, pa.table(columns, schema=SCHEMA)

        first_rows = self._columns.first_rows.tolist()
        for span, table in self._columns.map(["key", "similarity"], rows):
            for shard in range(span.first, span.after):
                start, stop = first_rows[shard : shard + 2]
                yield table.slice(start - span.rows.start, stop - start)
