"""What curation does with one partition's texts: match, count, rank, balance.

Every task takes the plan and the partition's number, reads files that earlier steps wrote, writes
files whose names follow from the number alone, and returns a small manifest. Doing it twice gives
the same files; the caller records the manifest when all files are there.

A *part* is a partition of the source, a *bucket* one of the crawl: all addresses of a registered
domain share a bucket, and so do all pairs of an address.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from pipeline import storage
from pipeline.candidates import schema, sources, urls
from pipeline.candidates.config import UrlTableConfig, WarcConfig
from pipeline.curation.config import CurateConfig
from pipeline.images import filters
from pipeline.images.rejects import Rejects
from pipeline.queries import balancing, query_list
from pipeline.queries.config import Profile
from pipeline.queries.matching import Matcher
from pipeline.shards.writer import publish_table, read_table

Manifest = dict[str, Any]

CAPTIONS = pa.schema(
    [
        pa.field(schema.CAPTION, pa.string(), nullable=False),
        pa.field(schema.COUNT, pa.int64(), nullable=False),
        schema.QUERY_IDS_FIELD,
    ]
)
"""Distinct captions of a bucket with the number of addresses that carry them."""


@dataclass(frozen=True)
class Plan:
    """All that a partition's work depends on."""

    config: CurateConfig
    source: UrlTableConfig | WarcConfig
    parts: tuple[dict[str, Any], ...]
    queries_uri: str
    """The query list."""
    profile: Profile
    uri: str
    """Folder of the stage."""

    def work(self, kind: str, index: int | str, ending: str = "parquet") -> str:
        """A working file: ``work/<kind>/<index>.<ending>``."""
        name = index if isinstance(index, str) else f"{index:05d}"
        return storage.join(self.uri, "work", kind, f"{name}.{ending}")

    def rejects(self) -> Rejects:
        """An empty collection of rejected pairs."""
        return Rejects(self.config.shards.rejects_per_reason)


def match_part(plan: Plan, part: int) -> Manifest:
    """Candidates of one part of the source → matched candidates by bucket."""
    candidates, rejects = sources.read(plan.source, plan.parts[part]), plan.rejects()
    rejects.dropped.update(candidates.dropped)
    num_candidates = candidates.table.num_rows + rejects.dropped.total()
    captions = candidates.table.column(schema.CAPTION).to_pylist()
    reasons = [filters.caption_reason(caption, plan.config.filters) for caption in captions]
    table = without(candidates.table, reasons, rejects)
    found = _matcher(plan.queries_uri, plan.profile).match(table.column(schema.CAPTION))
    table = table.append_column(schema.QUERY_IDS_FIELD, found)
    reasons = [None if number else schema.NO_QUERY for number in found.value_lengths().to_pylist()]
    table = without(table, reasons, rejects)
    num_buckets = plan.config.shards.num_partitions
    buckets = np.array(
        [urls.bucket(url, num_buckets) for url in table.column(schema.URL).to_pylist()], np.int64
    )
    for bucket in np.unique(buckets).tolist():
        rows = table.filter(pa.array(buckets == bucket))
        publish_table(plan.work(f"matched/{bucket:05d}", part), rows)
    publish_table(plan.work("rejects", f"match-{part:05d}"), rejects.table())
    return {
        "candidates": num_candidates,
        "kept": table.num_rows,
        "dropped": dict(rejects.dropped),
        "damage": candidates.damage,
    }


def count_bucket(plan: Plan, bucket: int) -> Manifest:
    """Matched candidates of one bucket → distinct pairs, and counts of queries and captions."""
    folder = storage.join(plan.uri, "work", "matched", f"{bucket:05d}")
    tables = [read_table(storage.join(folder, name)) for name in storage.list_names(folder)]
    if not tables:
        tables = [schema.MATCHED.empty_table()]
    # The first of equal pairs stays: parts and their rows have a fixed order.
    together = pa.concat_tables(tables)
    uids = np.array(together.column(schema.UID).to_pylist(), "U32")
    table = together.take(pa.array(np.unique(uids, return_index=True)[1]))
    publish_table(plan.work("pairs", bucket), table)
    publish_table(plan.work("counts", bucket), balancing.count(table.column(schema.QUERY_IDS)))
    publish_table(plan.work("captions", bucket), _caption_counts(table))
    num_duplicates = together.num_rows - table.num_rows
    return {"kept": table.num_rows, "dropped": {"duplicate_pair": num_duplicates}}


def rank_bucket(plan: Plan, bucket: int) -> Manifest:
    """Pairs of one bucket → the ranks that decide what each query keeps (mode ``cap``)."""
    everything = read_table(plan.work("pairs", bucket))
    table = everything.filter(
        pa.array([not each for each in _is_repeated(plan, everything)], pa.bool_())
    )
    uids, query_ids = table.column(schema.UID), table.column(schema.QUERY_IDS)
    ranked = balancing.ranks(uids, query_ids, query_counts(plan), plan.config.balance)
    publish_table(plan.work("ranks", bucket), ranked)
    return {"dropped": {}}


def merge_counts(plan: Plan) -> Manifest:
    """Counts of all buckets → repeated captions, and pairs per query without these."""
    buckets = range(plan.config.shards.num_partitions)
    num_queries = len(query_list.read(plan.queries_uri).queries)
    captions = pa.concat_tables([read_table(plan.work("captions", bucket)) for bucket in buckets])
    totals = captions.group_by(schema.CAPTION).aggregate([(schema.COUNT, "sum")])
    reasons = [
        filters.repeats_reason(total, plan.config.filters)
        for total in totals.column(f"{schema.COUNT}_sum").to_pylist()
    ]
    repeated = totals.filter(pa.array([reason is not None for reason in reasons], pa.bool_()))
    repeated = repeated.select([schema.CAPTION]).sort_by(schema.CAPTION)
    publish_table(plan.work("merged", "repeated"), repeated)
    counts = balancing.merge_counts(
        [read_table(plan.work("counts", bucket)) for bucket in buckets], num_queries
    )
    fallen = _are_in(captions, set(repeated.column(schema.CAPTION).to_pylist()))
    for row in captions.filter(pa.array(fallen, pa.bool_())).to_pylist():
        counts[row[schema.QUERY_IDS]] -= row[schema.COUNT]  # ids are unique in one list
    publish_table(plan.work("merged", "counts"), pa.table({schema.COUNT: counts}))
    return {"dropped": {}}


def merge_ranks(plan: Plan) -> Manifest:
    """Ranks of all buckets → the highest rank that each query keeps (mode ``cap``)."""
    config, num_queries = plan.config.balance, len(query_counts(plan))
    buckets = range(plan.config.shards.num_partitions)
    merged = balancing.merge_ranks(
        [read_table(plan.work("ranks", bucket)) for bucket in buckets], config
    )
    highest = balancing.thresholds(merged, num_queries, config)
    publish_table(plan.work("merged", "thresholds"), pa.table({"highest": highest}))
    return {"dropped": {}}


def query_counts(plan: Plan) -> Int64[np.ndarray, " query"]:
    """Pairs per query over all buckets, before balancing, repeated captions left out."""
    return read_table(plan.work("merged", "counts")).column(schema.COUNT).to_numpy()


def balanced_pairs(plan: Plan, bucket: int, rejects: Rejects) -> pa.Table:
    """The pairs of a bucket that shall be crawled, sorted by address and uid."""
    table = read_table(plan.work("pairs", bucket))
    repeated = _is_repeated(plan, table)
    table = without(table, ["repeated_caption" if each else None for each in repeated], rejects)
    table = without(table, _balance(plan, table).reasons.to_pylist(), rejects)
    return table.sort_by([(schema.URL_ID, "ascending"), (schema.UID, "ascending")])


def without(table: pa.Table, reasons: Sequence[str | None], rejects: Rejects) -> pa.Table:
    """The rows that have no drop reason; the others are counted and offered for inspection."""
    fallen = [index for index, reason in enumerate(reasons) if reason is not None]
    columns = [schema.UID, schema.URL_ID, schema.URL, schema.CAPTION]
    rows = table.select(columns).take(pa.array(fallen, pa.int64())).to_pylist()
    for index, row in zip(fallen, rows, strict=True):
        rejects.drop(str(reasons[index]), row)
    return table.filter(pa.array([reason is None for reason in reasons], pa.bool_()))


@lru_cache(maxsize=1)
def _matcher(queries_uri: str, profile: Profile) -> Matcher:
    """Built once per process: about 3 s for 500,000 queries."""
    return Matcher(query_list.read(queries_uri).queries, profile)


def _caption_counts(table: pa.Table) -> pa.Table:
    codes = table.column(schema.CAPTION).combine_chunks().dictionary_encode().indices.to_numpy()
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    rows = table.select([schema.CAPTION, schema.QUERY_IDS]).take(pa.array(first))
    return rows.add_column(1, schema.COUNT, pa.array(counts, pa.int64())).cast(CAPTIONS)


def _is_repeated(plan: Plan, table: pa.Table) -> list[bool]:
    repeated = read_table(plan.work("merged", "repeated")).column(schema.CAPTION).to_pylist()
    return _are_in(table, set(repeated))


def _are_in(table: pa.Table, captions: set[str]) -> list[bool]:
    return [caption in captions for caption in table.column(schema.CAPTION).to_pylist()]


def _balance(plan: Plan, table: pa.Table) -> balancing.Kept:
    config, counts = plan.config.balance, query_counts(plan)
    uids, query_ids = table.column(schema.UID), table.column(schema.QUERY_IDS)
    if config.mode == "sample":
        return balancing.keep_sampled(uids, query_ids, counts, config)
    highest = read_table(plan.work("merged", "thresholds")).column("highest").to_numpy()
    return balancing.keep_capped(uids, query_ids, counts, highest, config)
