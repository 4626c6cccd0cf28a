"""The crawl of one bucket, in passes: pairs → fetch → decode → filter → pool; one fused task each.

Each attempt at a pass writes files of its own name; the record of the pass names the attempt that
counts. So pool, table and log always belong together, whoever was killed or ran twice.
"""

import re
import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.candidates import schema
from pipeline.curation import memory, passes
from pipeline.curation.match import Manifest
from pipeline.curation.memory import Memory
from pipeline.curation.pictures import OWN_COLUMNS, REJECTED, Pair, PicturePlan, pool_schema
from pipeline.images import block_list
from pipeline.images.config import CrawlConfig
from pipeline.images.decode import open_rgb
from pipeline.images.decoder import shared
from pipeline.images.fetch import Fetched, Target
from pipeline.images.pool import CRAWL_LOG, PooledPicture, PoolRow, PoolWriter, fill_pool
from pipeline.images.rejects import Rejects
from pipeline.shards.writer import carried_name, publish_table
from pipeline.steps import result

REMEMBERED = "remembered"
"""Step that lists what the crawl remembers."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def crawl_bucket(plan: PicturePlan, bucket: int) -> Manifest:
    """Pairs of one bucket → fetch, decode, filter → pool; one fused step."""
    return crawl_pass(plan, bucket, 0)


def crawl_pass(plan: PicturePlan, bucket: int, number: int) -> Manifest:
    """The same for a further pass: what failed in a way that may pass, and nothing else.

    Args:
        plan: What the bucket depends on.
        bucket: Its number.
        number: Of the pass; the first is 0.
    """
    config, rejects = plan.config, plan.rejects()
    waiting = _waiting(plan, bucket, number)
    # A name of its own: should this task run twice, the record names the files of one attempt.
    attempt = f"{bucket:05d}-{number}-{uuid.uuid4().hex[:8]}"
    table = plan.pairs(bucket)
    by_picture: dict[str, list[Pair]] = {}
    for pair in table.to_pylist():
        if waiting is None or pair[schema.URL_ID] in waiting:
            by_picture.setdefault(pair[schema.URL_ID], []).append(pair)
    targets = [_target(found, config.crawl, waiting or {}) for found in by_picture.values()]

    def on_reject(key: str, reason: str, encoded: bytes) -> None:
        for pair in by_picture[key]:
            if rejects.wants(reason, pair[schema.UID]):
                rejects.offer(reason, pair, open_rgb(encoded))

    pool_uri = plan.file(passes.pool_name(attempt))
    with storage.open_for_publish(pool_uri) as file:
        decoder, blocked = shared(config.decode), block_list.read(config.filters)
        before_s = decoder.cpu_s
        writer = PoolWriter(file, decoder, config.filters, blocked, on_reject)
        rows = _decided(targets, _recall(plan, bucket), plan, writer)
    log = pa.Table.from_pylist([row.log for row in rows], schema=CRAWL_LOG)
    publish_table(plan.work("log", attempt), log)
    if config.crawl.execution.opt_out_ledger is not None:
        memory.remember(config.crawl.execution.opt_out_ledger, log)
    is_last = number + 1 >= config.crawl.num_passes
    num_pending = 0 if is_last else passes.pending(log).num_rows
    final = [row for row in rows if is_last or not row.log["transient"]]
    kept = _kept_rows(final, by_picture, rejects)
    pool = pa.Table.from_pylist(kept, schema=pool_schema(table.schema))
    publish_table(plan.work("pool", attempt), pool)
    publish_table(plan.work("rejects", attempt), rejects.table())
    return {
        passes.ATTEMPT: attempt,
        REJECTED: attempt,
        "kept": sum(len(row["uids"]) for row in kept),
        "dropped": dict(rejects.dropped),
        "child_cpu_s": decoder.cpu_s - before_s,
        "num_pool_bytes": storage.size_of(pool_uri),
        "num_pending": num_pending,
        "left_out": passes.left_out(log),
    }


def _waiting(plan: PicturePlan, bucket: int, number: int) -> dict[str, float] | None:
    """What a further pass asks for: key → Unix time before which it may not; None for the first."""
    if number == 0:
        return None
    log = passes.Pools(plan.folder, bucket).logs()[number - 1]
    return {row["key"]: row["retry_at_s"] or 0.0 for row in passes.pending(log).to_pylist()}


def _target(found: list[Pair], config: CrawlConfig, waiting: dict[str, float]) -> Target:
    """A picture, of its pairs."""
    key, given = found[0][schema.URL_ID], None
    if config.sha256_column is not None:  # which may hold an empty cell, or a note
        stated = (str(pair[config.sha256_column]).lower() for pair in found)
        given = next(filter(SHA256.fullmatch, stated), None)
    not_before_s = waiting.get(key, 0.0)
    return Target(key, found[0][schema.URL], given_sha256=given, not_before_s=not_before_s)


def list_remembered(plan: PicturePlan) -> Manifest:
    """What is remembered when the crawl begins: a resumed one must not see what it added itself."""
    return {"portions": memory.tables(plan.config.crawl), "dropped": {}}


def send_remembered(plan: PicturePlan, number: int, portion: dict[str, Any]) -> Manifest:
    """One portion of what is remembered → the buckets that it is about."""
    memory.send(portion, plan.remembered(number), plan.num_buckets)
    return {"dropped": {}}


def _recall(plan: PicturePlan, bucket: int) -> Memory:
    num_portions = len(result(plan.folder, REMEMBERED, 0)["portions"])
    return memory.recall([plan.remembered(number) for number in range(num_portions)], bucket)


def _decided(
    targets: Sequence[Target], remembered: Memory, plan: PicturePlan, writer: PoolWriter
) -> list[PoolRow]:
    """Fetch what memory does not answer; rows in the order of the targets."""
    decisions = [remembered.decide(target) for target in targets]
    asked = [each for each in decisions if isinstance(each, Target)]
    rows = {row.key: row for row in fill_pool(asked, plan.config.crawl, writer, plan.num_buckets)}
    rows |= {each.key: writer(each) for each in decisions if isinstance(each, Fetched)}
    return [rows[target.key] for target in targets]


def _kept_rows(
    rows: Sequence[PoolRow], by_picture: dict[str, list[Pair]], rejects: Rejects
) -> list[dict[str, Any]]:
    """Rows of the pool's table; the pairs of every other address are dropped."""
    kept = []
    for row in rows:
        found = by_picture[row.key]
        if row.picture is not None:
            kept.append(_pool_row(found, row.picture))
            continue
        for pair in found:
            rejects.drop(str(row.drop_reason), pair)
    return kept


def _pool_row(found: list[Pair], picture: PooledPicture) -> dict[str, Any]:
    """One picture with all its pairs, in the order of uids."""
    return {
        **{
            carried_name(name, OWN_COLUMNS): value
            for name, value in found[0].items()
            if name not in schema.MATCHED.names
        },
        "key": found[0][schema.URL_ID],
        "url": found[0][schema.URL],
        "captions": [pair[schema.CAPTION] for pair in found],
        "uids": [pair[schema.UID] for pair in found],
        "queries": sorted({query for pair in found for query in pair[schema.QUERY_IDS]}),
        "caption_queries": [pair[schema.QUERY_IDS] for pair in found],
        "page_url": _first(found, schema.PAGE_URL),
        "licence": _first(found, schema.LICENCE),
        "phash": picture.signature.phash_hex,
        "pixel_sha256": picture.signature.pixel_sha256,
        "thumbnail": picture.signature.thumbnail,
        **{name: value for name, value in vars(picture).items() if name != "signature"},
    }


def _first(found: list[Pair], column: str) -> str | None:
    return next((pair[column] for pair in found if pair[column] is not None), None)
