"""Select: shards and embeddings → one keep-list per profile, every sample with its reason.

Scores are read shard by shard (never the vectors), then each profile's thresholds, the exact
balance of queries, takedowns and the split by duplicate cluster decide. A sample is kept, or has
exactly one of the reasons ``removed``, ``too_small``, ``low_similarity``, ``over_query_limit``.
"""

import heapq
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import draws, storage
from pipeline.partitions import map_partitions
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import SCHEMA, SPLITS, KeepList, split_of, write_keep_list
from pipeline.shards.manifest import parquet_name
from pipeline.shards.select_config import ProfileConfig, SelectConfig
from pipeline.shards.writer import publish_table, read_table

SCORES = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("side_px", pa.int32()),
        ("similarity", pa.float32()),
        ("queries", pa.list_(pa.uint32())),
        ("removed", pa.bool_()),
    ]
)
"""What the decisions are made from: one row per sample, in the shard's order."""


def select(
    config: SelectConfig, curated: Result, embedded: Result, uri: str, progress: Progress
) -> StageOutput:
    """Make the keep-lists.

    Args:
        config: The stage's section.
        curated: Finished `curate` stage.
        embedded: Finished `embed` stage of the same data set.
        uri: Folder for the keep-lists.
        progress: Where to tell people how far it is.

    Raises:
        DataError: The embeddings belong to other shards, or a file is damaged.
    """
    dataset = CuratedDataset(curated)
    EmbeddedDataset(embedded, dataset)
    shards = [{"shard": shard} for shard in range(len(dataset.shards))]
    task = partial(score_shard, config=config, curated=curated, embedded=embedded, uri=uri)
    work = []
    with progress.stage("select", total=len(shards), unit="shards") as bar:
        for row in map_partitions(task, shards):
            work.append((row["started_s"], row["ended_s"]))
            bar.advance(1)
    started = time.time()
    scores = _Scores(uri, dataset)
    profiles = {
        name: _profile(name, profile, config, scores, uri) for name, profile in _sorted(config)
    }
    work.append((started, time.time()))
    return StageOutput({"profiles": profiles}, work)


def keep_list(selected: Result, profile: str) -> KeepList:
    """A published keep-list by its profile's name."""
    entry = selected.content["profiles"][profile]
    return KeepList(storage.join(selected.uri, entry["name"]), entry)


def _sorted(config: SelectConfig) -> list[tuple[str, ProfileConfig]]:
    return sorted(config.profiles.items())


def score_shard(
    row: dict[str, Any], config: SelectConfig, curated: Result, embedded: Result, uri: str
) -> dict[str, Any]:
    """Write one shard's score rows, unless they are there.

    Args:
        row: ``shard``: its number.
        config: The stage's section.
        curated: Finished `curate` stage.
        embedded: Finished `embed` stage of the same data set.
        uri: Folder for the keep-lists.
    """
    started = time.time()
    shard = int(row["shard"])
    dataset = CuratedDataset(curated)
    target = _scores_uri(uri, dataset, shard)
    if not storage.exists(target):
        publish_table(target, _score_table(config, dataset, embedded, shard))
    return {"shard": shard, "started_s": started, "ended_s": time.time()}


def _score_table(
    config: SelectConfig, dataset: CuratedDataset, embedded: Result, shard: int
) -> pa.Table:
    removed_keys, removed_urls = set(config.remove_keys), set(config.remove_urls)
    rows = dataset.rows(shard, ["key", "url", "cluster", "width", "height", "queries"])
    similarity = EmbeddedDataset(embedded, dataset).table(shard, ["key", "similarity"])
    best = {
        key: max(values, default=-1.0)
        for key, values in zip(
            similarity["key"].to_pylist(), similarity["similarity"].to_pylist(), strict=True
        )
    }
    scored = [
        {
            "key": sample["key"],
            "split": split_of(sample["cluster"], config.split),
            "side_px": min(sample["width"], sample["height"]),
            "similarity": best[sample["key"]],
            "queries": sample["queries"],
            "removed": sample["key"] in removed_keys or sample["url"] in removed_urls,
        }
        for sample in rows.to_pylist()
    ]
    return pa.Table.from_pylist(scored, schema=SCORES)


def _scores_uri(uri: str, dataset: CuratedDataset, shard: int) -> str:
    return storage.join(uri, "scores", parquet_name(dataset.shards[shard]["name"]))


class _Scores:
    """The score rows of every shard, one shard in memory at a time."""

    def __init__(self, uri: str, dataset: CuratedDataset) -> None:
        self.names = [entry["name"] for entry in dataset.shards]
        self._uris = [_scores_uri(uri, dataset, shard) for shard in range(len(self.names))]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for uri in self._uris:
            yield read_table(uri).to_pylist()


def _profile(
    name: str, profile: ProfileConfig, config: SelectConfig, scores: _Scores, uri: str
) -> dict[str, Any]:
    """Write one keep-list and return its manifest entry."""
    chosen = _balanced(profile, config.split.seed, scores)
    reasons: dict[str, int] = {}

    def tables() -> Iterator[pa.Table]:
        for shard, rows in zip(scores.names, scores, strict=True):
            decided = []
            for row in rows:
                reason = drop_reason(row, profile)
                if reason is None and chosen is not None and row["queries"]:
                    reason = None if row["key"] in chosen else "over_query_limit"
                if reason is not None:
                    reasons[reason] = reasons.get(reason, 0) + 1
                decided.append(_keep_row(shard, row, reason))
            yield pa.Table.from_pylist(decided, schema=SCHEMA)

    file_name = f"keep/{name}.parquet"
    entry = write_keep_list(storage.join(uri, file_name), scores.names, tables())
    kept = {split: sum(s[f"num_kept_{split}"] for s in entry["shards"]) for split in SPLITS}
    return {"name": file_name, "kept": kept, "dropped": dict(sorted(reasons.items())), **entry}


def drop_reason(row: dict[str, Any], profile: ProfileConfig) -> str | None:
    """Why a profile refuses a sample on its own merits, or None.

    Args:
        row: A row of `SCORES`.
        profile: Its thresholds.
    """
    if row["removed"]:
        return "removed"
    if row["side_px"] < profile.min_side_px:
        return "too_small"
    if profile.min_similarity is not None and not row["similarity"] >= profile.min_similarity:
        return "low_similarity"
    return None


def _balanced(profile: ProfileConfig, seed: int, scores: _Scores) -> set[str] | None:
    """Keys that some query contributes: of each the ``max_per_query`` with the lowest draws."""
    limit = profile.max_per_query
    if limit is None:
        return None
    lowest: dict[int, list[tuple[int, str]]] = {}
    for rows in scores:
        for row in rows:
            if drop_reason(row, profile) is not None:
                continue
            entry = (-draws.hash64(seed, "balance", row["key"]), row["key"])
            for query in row["queries"]:
                heap = lowest.setdefault(query, [])
                if len(heap) < limit:
                    heapq.heappush(heap, entry)
                else:
                    heapq.heappushpop(heap, entry)
    return {key for heap in lowest.values() for _, key in heap}


def _keep_row(shard: str, row: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {
        "shard": shard,
        "key": row["key"],
        "kept": reason is None,
        "split": row["split"],
        "drop_reason": reason,
        "similarity": row["similarity"],
    }
