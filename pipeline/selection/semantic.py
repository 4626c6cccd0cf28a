"""The search for semantic duplicates over a whole data set, out of core.

Clusters are dealt out to buckets that fit in memory; a bucket's pairs go to ranges of their first
row, and the ranges, one after the other, make the sorted table. How many buckets there are leaves
no trace in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.curation import exchange
from pipeline.partitions import Row
from pipeline.progress import Progress
from pipeline.selection import clustering
from pipeline.selection.config import SemanticConfig
from pipeline.selection.numbers import key_hashes
from pipeline.selection.pairs import cluster_pairs
from pipeline.selection.plan import ScorePlan
from pipeline.shards.embedding_files import unit
from pipeline.shards.score_files import PAIR, PAIRS
from pipeline.shards.writer import publish_table, read_table
from pipeline.steps import Steps

ROW_GROUP = 1 << 20
LEADING = [("side_px", "descending"), ("similarity", "descending"), ("key", "ascending")]
"""Who leads whom: the larger side, then the higher similarity, then the smaller key."""
OTHER_BYTES = 160
"""Of a row beside its embedding."""
Intervals = list[tuple[float, float]]


@dataclass(frozen=True)
class SemanticPlan:
    """What the tasks of the search are told."""

    score: ScorePlan
    config: SemanticConfig
    num_buckets: int

    @property
    def folder(self) -> str:
        """Working files of this cut of the work."""
        return storage.join(self.score.folder, f"semantic-{self.num_buckets}")

    def work(self, kind: str, index: int) -> str:
        """Rows that change partition: ``work/semantic-<buckets>/<kind>/<index>.arrow``."""
        return storage.join(self.folder, kind, f"{index:05d}.arrow")

    @property
    def centroids(self) -> str:
        """The table of centroids."""
        return storage.join(self.score.folder, "centroids.parquet")


def num_buckets(counts: list[int], dim: int, config: SemanticConfig) -> int:
    """Buckets of clusters, each about as large as the memory of a task."""
    # Held at once: the received rows, their copy in leading order, and one cluster in float32.
    needed = sum(counts) * config.n_probe * (4 * dim + OTHER_BYTES)
    wanted = -(-needed // config.execution.memory_bytes)
    return max(1, min(wanted, config.num_clusters))


def draw(
    plan: ScorePlan, config: SemanticConfig, shard: int, z_img: np.ndarray, scores: pa.Table
) -> None:
    """Keep one shard's embeddings at hand, and say which may be among those to fit clusters on."""
    plan.write_vectors(shard, z_img)
    hashes = key_hashes(scores["key"], "semantic", config.seed)
    drawn = np.flatnonzero(clustering.in_sample(hashes, sum(plan.counts), config.sample_rows))
    publish_table(plan.work("drawn", shard), pa.table({"hash": hashes[drawn], "row": drawn}))


def find_pairs(
    plan: ScorePlan, config: SemanticConfig, progress: Progress
) -> tuple[dict[str, Any], Intervals]:
    """Publish the table of pairs; returns what the manifest says of it, and the work's intervals.

    Args:
        plan: The stage's plan; its shards are scored.
        config: How close, and how to search.
        progress: Where people see how far it is.
    """
    search = SemanticPlan(plan, config, num_buckets(plan.counts, plan.dim, config))
    steps = Steps(search.folder, progress)
    fitted = steps.once("fit", partial(fit, search))
    rows: list[Row] = [{} for _ in plan.counts]
    steps.run("assign", partial(assign_shard, plan=search), rows)
    done = steps.run("pairs", partial(bucket_pairs, plan=search), [{}] * search.num_buckets)
    merged = steps.once("merge", partial(merge, search))
    content = {**fitted, **merged, "floor": config.floor, "seed": config.seed}
    content["num_cut"] = sum(row["num_cut"] for row in done)
    content["largest_cluster"] = max((row["largest"] for row in done), default=0)
    return content, steps.intervals()


def fit(plan: SemanticPlan) -> Row:
    """Drawn samples of all shards → centroids."""
    config, score = plan.config, plan.score

    def drawn(shard: int) -> tuple[np.ndarray, np.ndarray]:
        table = read_table(score.work("drawn", shard))
        return table["hash"].to_numpy(), score.read_vectors(shard)[table["row"].to_numpy()]

    parts = [*exchange.read_ahead(drawn, range(len(score.counts)))]
    hashes, vectors = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    sample = clustering.lowest(hashes, unit(vectors), config.sample_rows)
    centroids = clustering.fit(sample, config.num_clusters, config.iterations)
    flat = pa.array(centroids.reshape(-1), pa.float32())
    table = pa.table({"centroid": pa.FixedSizeListArray.from_arrays(flat, score.dim)})
    publish_table(plan.centroids, table)
    return {"num_clusters": len(centroids), "sample_rows": len(sample)}


def assign_shard(row: Row, plan: SemanticPlan) -> Row:
    """One shard's embeddings → buckets of clusters.

    Args:
        row: ``number`` of the shard.
        plan: What the search is told.
    """
    shard, score = int(row["number"]), plan.score
    flat = read_table(plan.centroids)["centroid"].combine_chunks().flatten().to_numpy()
    z_img = score.read_vectors(shard)
    # Which cluster is nearest does not depend on a row's length.
    rows = z_img.astype(np.float32)
    found = clustering.nearest(rows, flat.reshape(-1, score.dim), plan.config.n_probe)
    clusters = found.reshape(-1)
    index = np.repeat(np.arange(len(z_img)), found.shape[1])
    first = sum(score.counts[:shard])
    ranked = read_table(score.scores_uri(shard), ["side_px", "similarity", "key"])
    table = ranked.take(pa.array(index)).append_column("cluster", pa.array(clusters))
    table = table.append_column("row", pa.array(index + first))
    repeated = z_img if found.shape[1] == 1 else z_img[index]
    lists = pa.FixedSizeListArray.from_arrays(
        pa.array(repeated.reshape(-1), pa.float16()), score.dim
    )
    table = table.append_column("z_img", lists)
    target = plan.work("assigned", shard)
    # Embeddings hardly shrink.
    exchange.send(target, table, clusters % plan.num_buckets, plan.num_buckets, compression=None)
    return {}


def bucket_pairs(row: Row, plan: SemanticPlan) -> Row:
    """Clusters of one bucket → pairs, by range of their first row.

    Args:
        row: ``number`` of the bucket.
        plan: What the search is told.
    """
    bucket, score = int(row["number"]), plan.score
    files = [plan.work("assigned", shard) for shard in range(len(score.counts))]
    table = pa.Table.from_batches(exchange.receive(files, bucket))
    by_cluster = pc.SortOptions([("cluster", "ascending"), *LEADING])
    order = pc.call_function("sort_indices", [table], by_cluster).to_numpy()
    rows, clusters = (table[name].to_numpy()[order] for name in ("row", "cluster"))
    vectors = score.vectors(table)
    starts = np.flatnonzero(np.diff(clusters, prepend=-1))
    parts, num_cut, sizes = [PAIR.empty_table()], 0, [0]
    for first, after in zip(starts, [*starts[1:], len(rows)], strict=True):
        found = cluster_pairs(
            vectors[order[first:after]], plan.config.floor, plan.config.max_pairs_per_sample
        )
        members = rows[first:after]
        parts.append(_pairs(members[found.first], members[found.second], found.cosine))
        num_cut += found.num_cut
        sizes.append(int(after - first))
    pairs = pa.concat_tables(parts)
    ranges = pairs["a"].to_numpy() * np.uint64(plan.num_buckets) // np.uint64(sum(score.counts))
    exchange.send(plan.work("pairs", bucket), pairs, ranges, plan.num_buckets)
    return {"num_cut": num_cut, "largest": max(sizes)}


def merge(plan: SemanticPlan) -> Row:
    """Pairs of all buckets → one table, sorted, each once."""
    uri = storage.join(plan.score.uri, PAIRS)
    num_pairs = 0
    with (
        storage.open_for_publish(uri) as file,
        pq.ParquetWriter(file, PAIR, compression="zstd") as writer,
    ):
        for group in _groups(_ranges(plan)):
            writer.write_table(group, row_group_size=ROW_GROUP)
            num_pairs += group.num_rows
    return {"name": PAIRS, "sha256": storage.sha256_of(uri), "num_pairs": num_pairs}


def _ranges(plan: SemanticPlan) -> Iterator[pa.Table]:
    files = [plan.work("pairs", bucket) for bucket in range(plan.num_buckets)]
    for number in range(plan.num_buckets):
        table = pa.Table.from_batches(exchange.receive(files, number))
        a, b = table["a"].to_numpy(), table["b"].to_numpy()
        order = np.lexsort((b, a))
        a, b = a[order], b[order]
        # Two clusters may hold the same two rows.
        is_new = (np.diff(a, prepend=a[:1]) != 0) | (np.diff(b, prepend=b[:1]) != 0)
        is_new[:1] = True
        yield table.take(pa.array(order[is_new]))


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in groups of one length, whatever the ranges were."""
    held = PAIR.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    yield held.combine_chunks()


def _pairs(first: np.ndarray, second: np.ndarray, cosine: np.ndarray) -> pa.Table:
    a, b = np.minimum(first, second), np.maximum(first, second)
    return pa.table([a.astype(np.uint64), b.astype(np.uint64), cosine], schema=PAIR)
