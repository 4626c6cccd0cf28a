"""What balancing does to hold queries to their limit: add up counts, rank, keep.

The tasks follow the rules of ``match.py``. In mode ``cap`` a rank goes to the *range* of its query
(its id, modulo the number of ranges), so that nobody holds the ranks of all pairs.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from pipeline import storage
from pipeline.candidates import schema
from pipeline.curation import exchange
from pipeline.curation.match import Manifest, Plan, without
from pipeline.queries import balancing, query_list
from pipeline.shards.writer import publish_table, read_table

PAIRS = "pairs"
"""Folder of the balanced pairs, one file per bucket."""
HIGHEST = "highest"


def pairs_name(bucket: int) -> str:
    """``00000.parquet``: the balanced pairs of a bucket."""
    return f"{bucket:05d}.parquet"


def merge_counts(plan: Plan) -> Manifest:
    """Counts of all buckets → pairs per query; a few buckets' counts are in memory at a time."""
    counts = add_up(plan, "counts")
    publish_table(plan.work("merged", "counts"), pa.table({schema.COUNT: counts}))
    return {"dropped": {}}


def add_up(plan: Plan, kind: str) -> Int64[np.ndarray, " query"]:
    """Pairs per query over all buckets, of working files that hold ``schema.QUERY_COUNTS``."""
    num_queries = query_list.read(plan.queries_uri).table.num_rows
    files = [plan.work(kind, bucket) for bucket in range(plan.num_buckets)]
    return balancing.merge_counts(exchange.read_ahead(read_table, files), num_queries)


def query_counts(plan: Plan) -> Int64[np.ndarray, " query"]:
    """Pairs per query over all buckets, before balancing, repeated captions left out."""
    return read_table(plan.work("merged", "counts")).column(schema.COUNT).to_numpy()


def rank_bucket(plan: Plan, bucket: int) -> Manifest:
    """Pairs of one bucket → the ranks that decide what each query keeps (mode ``cap``)."""
    table = read_table(plan.work("pairs", bucket), [schema.UID, schema.QUERY_IDS])
    uids, query_ids = table.column(schema.UID), table.column(schema.QUERY_IDS)
    ranked = balancing.ranks(uids, query_ids, query_counts(plan), plan.config)
    ranges = ranked.column(schema.QUERY_ID).to_numpy() % plan.num_buckets
    exchange.send(plan.work("ranks", bucket, "arrow"), ranked, ranges, plan.num_buckets)
    return {"dropped": {}}


def find_thresholds(plan: Plan, number: int) -> Manifest:
    """Ranks of one range's queries → the highest rank that each of them keeps (mode ``cap``)."""
    num_queries = len(query_counts(plan))
    files = [plan.work("ranks", bucket, "arrow") for bucket in range(plan.num_buckets)]
    ranks = pa.Table.from_batches(exchange.receive(files, number))
    merged = balancing.merge_ranks([ranks], plan.config)
    highest = balancing.thresholds(merged, num_queries, plan.config)[number :: plan.num_buckets]
    publish_table(plan.work("thresholds", number), pa.table({HIGHEST: highest}))
    return {"dropped": {}}


def merge_thresholds(plan: Plan) -> Manifest:
    """Thresholds of all ranges → one table (mode ``cap``)."""
    highest = np.empty(len(query_counts(plan)), np.uint64)
    files = [plan.work("thresholds", number) for number in range(plan.num_buckets)]
    for number, found in enumerate(exchange.read_ahead(read_table, files)):
        highest[number :: plan.num_buckets] = found.column(HIGHEST).to_numpy()
    publish_table(plan.work("merged", "thresholds"), pa.table({HIGHEST: highest}))
    return {"dropped": {}}


def keep_bucket(plan: Plan, bucket: int) -> Manifest:
    """Pairs of one bucket → those that stay, sorted by address and uid, and their counts."""
    table, rejects = read_table(plan.work("pairs", bucket)), plan.rejects()
    decided = _decide(plan, table)
    kept = without(table, decided.reasons, rejects)
    kept = kept.sort_by([(schema.URL_ID, "ascending"), (schema.UID, "ascending")])
    sha256 = publish_table(storage.join(plan.uri, PAIRS, pairs_name(bucket)), kept)
    publish_table(plan.work("kept", bucket), balancing.count(kept.column(schema.QUERY_IDS)))
    publish_table(plan.work("owned", bucket), balancing.count_owned(decided))
    publish_table(plan.work("rejects", f"keep-{bucket:05d}"), rejects.table())
    return {
        "kept": kept.num_rows,
        "dropped": dict(rejects.dropped),
        "file": {"name": pairs_name(bucket), "num_pairs": kept.num_rows, "sha256": sha256},
    }


def _decide(plan: Plan, table: pa.Table) -> balancing.Kept:
    counts = query_counts(plan)
    uids, query_ids = table.column(schema.UID), table.column(schema.QUERY_IDS)
    if plan.config.mode == "sample":
        return balancing.keep_sampled(uids, query_ids, counts, plan.config)
    highest = read_table(plan.work("merged", "thresholds")).column(HIGHEST).to_numpy()
    return balancing.keep_capped(uids, query_ids, counts, highest, plan.config)
