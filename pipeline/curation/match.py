"""What balancing does with one partition's texts: match, gather, find repeats, count.

Every task takes the plan and the partition's number, reads files that earlier steps wrote, writes
files whose names follow from the number alone, and returns a small manifest. Doing it twice gives
the same files; the caller records the manifest when all files are there.

A *part* is a partition of the source, a *bucket* one of the crawl: all addresses of a registered
domain share a bucket, and so do all pairs of an address. A *range* holds the captions of a part of
all digests. There are as many ranges as buckets.
"""

import hashlib
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from pipeline import storage
from pipeline.candidates import captions, hosts, languages, schema, sources, urls
from pipeline.candidates.config import SourceConfig
from pipeline.curation import exchange
from pipeline.curation.config import BalanceStageConfig
from pipeline.images.rejects import Rejects
from pipeline.queries import balancing, query_list
from pipeline.queries.config import Profile
from pipeline.queries.matching import Matcher
from pipeline.shards.writer import publish_table, read_table

Manifest = dict[str, Any]

DIGEST_BYTES = 16
CAPTION_COUNTS = pa.schema(
    [
        pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field(schema.COUNT, pa.int64(), nullable=False),
    ]
)
"""Distinct captions of a bucket, by blake2b-128, with the number of addresses that carry them."""


@dataclass(frozen=True)
class Plan:
    """All that a partition's work depends on."""

    config: BalanceStageConfig
    source: SourceConfig
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

    @property
    def num_buckets(self) -> int:
        """Parts of what comes out, and partitions of the crawl."""
        return self.config.num_buckets

    def rejects(self) -> Rejects:
        """An empty collection of rejected pairs."""
        return Rejects(self.config.rejects_per_reason)


def match_part(plan: Plan, part: int) -> Manifest:
    """Candidates of one part of the source → matched candidates, sent to their buckets."""
    started = time.process_time()
    candidates, rejects = sources.read(plan.source, plan.parts[part]), plan.rejects()
    matcher = _matcher(plan.queries_uri, plan.profile)
    fixed_cpu_s = time.process_time() - started
    rejects.dropped.update(candidates.dropped)
    num_candidates = candidates.table.num_rows + rejects.dropped.total()
    texts = candidates.table.column(schema.CAPTION)
    reasons = captions.caption_reasons(texts, plan.config.captions)
    table = without(candidates.table, reasons, rejects)
    found = matcher.match(table.column(schema.CAPTION))
    table = table.append_column(schema.QUERY_IDS_FIELD, found)
    unmatched = pc.call_function("equal", [found.value_lengths(), pa.scalar(0)])
    table = without(table, captions.reason_where(unmatched, schema.NO_QUERY), rejects)
    if plan.config.captions.languages:  # last, of those that are left: it costs the most
        texts = table.column(schema.CAPTION)
        table = without(table, languages.language_reasons(texts, plan.config.captions), rejects)
    buckets = urls.buckets(table.column(schema.URL), plan.num_buckets)
    exchange.send(plan.work("matched", part, "arrow"), table, buckets, plan.num_buckets)
    publish_table(plan.work("rejects", f"match-{part:05d}"), rejects.table())
    return {
        "candidates": num_candidates,
        "kept": table.num_rows,
        "dropped": dict(rejects.dropped),
        "damage": candidates.damage,
        "dropped_by_reader": candidates.dropped,
        "fixed_cpu_s": fixed_cpu_s,
    }


def gather_bucket(plan: Plan, bucket: int) -> Manifest:
    """Matched candidates of one bucket → distinct pairs; their captions' counts go to ranges."""
    files = [plan.work("matched", part, "arrow") for part in range(len(plan.parts))]
    tables = [pa.Table.from_batches([batch]) for batch in exchange.receive(files, bucket)]
    # A carried column without any value in one file has a type in another.
    together = pa.concat_tables(tables or [schema.MATCHED.empty_table()], promote_options="default")
    table = together.take(pa.array(_first_of_each(together.column(schema.UID))))
    publish_table(plan.work("gathered", bucket), table)
    counted = pc.call_function("value_counts", [table.column(schema.CAPTION).combine_chunks()])
    distinct = pa.table([_digests(counted.field(0)), counted.field(1)], schema=CAPTION_COUNTS)
    ranges = _ranges(distinct.column("digest"), plan.num_buckets)
    exchange.send(plan.work("captions", bucket, "arrow"), distinct, ranges, plan.num_buckets)
    num_duplicates = together.num_rows - table.num_rows
    return {"kept": table.num_rows, "dropped": {"duplicate_pair": num_duplicates}}


def find_repeats(plan: Plan, number: int) -> Manifest:
    """Counts of one range's captions → those on too many addresses, sent to their buckets."""
    files = [plan.work("captions", bucket, "arrow") for bucket in range(plan.num_buckets)]
    batches = list(exchange.receive(files, number))
    together = pa.Table.from_batches(batches)
    buckets = np.repeat(np.arange(len(batches)), [batch.num_rows for batch in batches])
    totals = together.group_by("digest").aggregate([(schema.COUNT, "sum")])
    repeated = totals.filter(captions.are_repeated(totals.column(1), plan.config.captions))
    chosen = _is_in(together.column("digest"), repeated.column("digest"))
    rows = together.select(["digest"]).filter(chosen)
    senders = buckets[chosen.to_numpy()]
    exchange.send(plan.work("repeats", number, "arrow"), rows, senders, plan.num_buckets)
    return {"dropped": {}}


def count_bucket(plan: Plan, bucket: int) -> Manifest:
    """Pairs of one bucket → pairs that may be crawled, and how many each query has of them.

    Repeated captions fall, and what is beyond the limit of a host.
    """
    everything, rejects = read_table(plan.work("gathered", bucket)), plan.rejects()
    files = [plan.work("repeats", number, "arrow") for number in range(plan.num_buckets)]
    repeated = pa.Table.from_batches(exchange.receive(files, bucket)).column("digest")
    distinct = everything.column(schema.CAPTION).combine_chunks().dictionary_encode()
    digests = _digests(distinct.dictionary).take(distinct.indices)
    fallen = _is_in(digests, repeated)
    reasons = captions.reason_where(fallen, captions.REPEATED_CAPTION)
    table = without(everything, reasons, rejects)
    if plan.config.max_pictures_per_host is not None:
        beyond = hosts.beyond_limit(table, plan.config.max_pictures_per_host)
        reasons = captions.reason_where(beyond, schema.OVER_HOST_LIMIT)
        table = without(table, reasons, rejects)
    publish_table(plan.work("pairs", bucket), table)
    counts = balancing.count(table.column(schema.QUERY_IDS))
    publish_table(plan.work("counts", bucket), counts, delta=True)
    publish_table(plan.work("rejects", f"count-{bucket:05d}"), rejects.table())
    return {"kept": table.num_rows, "dropped": dict(rejects.dropped)}


def without(
    table: pa.Table, reasons: pa.StringArray | pa.ChunkedArray, rejects: Rejects
) -> pa.Table:
    """The rows that have no drop reason; the others are counted and offered for inspection."""
    columns = [schema.UID, schema.URL_ID, schema.URL, schema.CAPTION]
    for reason in reasons.unique().drop_null().to_pylist():
        chosen = pc.call_function("equal", [reasons, pa.scalar(reason)])
        rejects.drop_table(reason, table.select(columns).filter(chosen))
    return table.filter(reasons.is_null())


@lru_cache(maxsize=1)
def _matcher(queries_uri: str, profile: Profile) -> Matcher:
    """Built once per process: about 1 s for 500,000 queries."""
    return Matcher(query_list.read(queries_uri).queries, profile)


def _first_of_each(uids: pa.ChunkedArray) -> Int64[np.ndarray, " pair"]:
    """Row of the first of equal uids, by rising uid: parts and their rows have a fixed order."""
    order = pc.call_function("sort_indices", [uids])  # a stable sort
    runs = pc.call_function("run_end_encode", [uids.take(order).combine_chunks()])
    starts = np.append(0, runs.run_ends.to_numpy())[:-1]
    return order.to_numpy().astype(np.int64)[starts]


def _digests(captions: pa.StringArray) -> pa.FixedSizeBinaryArray:
    """blake2b-128 of each caption."""
    texts = captions.to_pylist()
    found = [hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest() for text in texts]
    return pa.array(found, pa.binary(DIGEST_BYTES))


def _ranges(digests: pa.ChunkedArray, num_ranges: int) -> Int64[np.ndarray, " row"]:
    """The range of each digest: its first eight bytes, modulo."""
    content = b"".join(digests.to_pylist())
    words = np.frombuffer(content, "<u8").reshape(-1, DIGEST_BYTES // 8)
    return (words[:, 0] % np.uint64(num_ranges)).astype(np.int64)


def _is_in(values: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> Any:  # noqa: ANN401
    options = pc.SetLookupOptions(value_set=among.combine_chunks())
    return pc.call_function("is_in", [values], options)
