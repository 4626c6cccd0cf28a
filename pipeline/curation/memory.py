"""What crawls remember: who opted out, and what earlier crawls made of an address.

The ledger is a folder of small tables, one per finished pass of a bucket that met an opt-out, one
per request for removal; they are named by their content, so that nothing in it is ever changed. (A
pass that was killed leaves none: it asks again.) Before a crawl asks for anything, all that is
remembered is read once and sent to the buckets whose addresses it is about.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.candidates import urls
from pipeline.curation import exchange
from pipeline.errors import ConfigError, DataError
from pipeline.images import failures
from pipeline.images.config import CrawlConfig
from pipeline.images.fetch import Fetched, Target, not_asked
from pipeline.shards.removals import REMOVED
from pipeline.shards.writer import publish_table, read_table

CRAWL_LOG_FOLDER = "crawl_log"
LEDGER = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string(), nullable=False),
        pa.field("started_s", pa.float64(), nullable=False),
    ]
)
"""``started_s``: Unix time of the request that was answered with the opt-out, or of the removal."""
REMEMBERED = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string()),
        pa.field("transient", pa.bool_(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("in_ledger", pa.bool_(), nullable=False),
    ]
)
"""What a bucket is told of an address: columns of a crawl log, and whether the ledger says it."""
FILES_PER_TASK = 256

OPT_OUTS = (failures.OPTED_OUT_IMAGE, failures.OPTED_OUT_SITE)
HELD = (None, failures.UNCHANGED)
"""What the log of a crawl says of pictures that it holds, or that an earlier one held."""
FINAL = frozenset(
    {"dns_error", "http_error", "invalid_response", "invalid_url", "tls_error"}
    | {"wrong_content_type", "decode_error", *OPT_OUTS}
)
"""Reasons that are facts of an address. All others depend on settings, or on what a site says
today: a later crawl fetches such a picture like a new one."""


@dataclass(frozen=True)
class Memory:
    """What is remembered of some addresses, by key: rows of ``REMEMBERED``."""

    opted_out: dict[str, Mapping[str, Any]]
    """Of the ledger."""
    earlier: dict[str, Mapping[str, Any]]
    """Of earlier crawls: of the last one that was named and holds the picture; where none does, of
    the last that says something of the address."""

    def decide(self, target: Target) -> Target | Fetched:
        """The target as it shall be fetched, or its outcome without a request."""
        refused = self.opted_out.get(target.key)
        if refused is not None:
            return not_asked(target, refused["drop_reason"])
        known = self.earlier.get(target.key)
        if known is None or not _says_something(known):
            return target
        if known["drop_reason"] in HELD:
            return replace(target, etag=known["etag"], held_sha256=known["sha256"])
        return not_asked(target, known["drop_reason"])


def tables(config: CrawlConfig) -> list[dict[str, Any]]:
    """The tables to be read, in the order in which they count, in portions for one task each."""
    ledger = config.execution.opt_out_ledger
    found = [] if ledger is None else _files(ledger, in_ledger=True)
    for uri in config.earlier_crawls:
        found += _files(storage.join(uri, CRAWL_LOG_FOLDER), in_ledger=False)
    starts = range(0, len(found), FILES_PER_TASK)
    return [{"tables": found[start : start + FILES_PER_TASK]} for start in starts]


def send(portion: Mapping[str, Any], uri: str, num_buckets: int) -> None:
    """Send what a portion of tables says to the buckets whose addresses it is about.

    Args:
        portion: Of ``tables``.
        uri: The file for all buckets.
        num_buckets: Parts of the crawl.

    Raises:
        DataError: A crawl log is of another version.
    """
    parts, receivers = [REMEMBERED.empty_table()], [np.empty(0, np.int64)]
    for entry in portion["tables"]:
        table = read_table(entry["uri"])
        if entry["in_ledger"]:
            nothing = pa.nulls(table.num_rows, pa.string())
            table = table.append_column("etag", nothing).append_column("sha256", nothing)
            table = table.append_column("transient", pa.repeat(False, table.num_rows))
        if not {*REMEMBERED.names[:-1]} <= {*table.column_names}:
            raise DataError(
                f"{entry['uri']} lacks columns of a crawl log; it was written by another version: "
                "leave it out of crawl.earlier_crawls, or crawl it again"
            )
        receivers.append(urls.buckets(table.column("url"), num_buckets))
        said = pa.repeat(entry["in_ledger"], table.num_rows)
        told = table.append_column("in_ledger", said).select(REMEMBERED.names)
        parts.append(told.cast(REMEMBERED))
    exchange.send(uri, pa.concat_tables(parts), np.concatenate(receivers), num_buckets)


def recall(uris: Iterable[str], bucket: int) -> Memory:
    """What was sent to a bucket.

    Args:
        uris: Files that ``send`` wrote, in the order of their portions.
        bucket: Its number.
    """
    memory = Memory({}, {})
    for batch in exchange.receive(uris, bucket):
        for row in batch.to_pylist():
            if row["in_ledger"]:
                memory.opted_out[row["key"]] = row
            elif _outweighs(row, memory.earlier.get(row["key"])):
                memory.earlier[row["key"]] = row
    return memory


def _says_something(row: Mapping[str, Any]) -> bool:
    return row["drop_reason"] in HELD or (row["drop_reason"] in FINAL and not row["transient"])


def _outweighs(row: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    """Whether a later crawl's row replaces an earlier one's."""
    if known is None or row["drop_reason"] in HELD:
        return True
    return known["drop_reason"] not in HELD and _says_something(row)


def remember(ledger: str, log: pa.Table) -> None:
    """Add the opt-outs of a crawl log to a ledger.

    Args:
        ledger: Its folder.
        log: Rows of the crawl log that were asked for.
    """
    asked = pc.call_function("greater", [log.column("attempts"), 0])
    opted_out = _whose(log.filter(asked), "drop_reason", pa.array(OPT_OUTS))
    if opted_out.num_rows:
        _add(ledger, opted_out.select(LEDGER.names).cast(LEDGER))


def forbid(ledger: str, addresses: Iterable[str]) -> int:
    """Let no later crawl ask for addresses again; returns how many.

    Args:
        ledger: Folder of the ledger.
        addresses: Any; those that no crawl could ask for are left out.
    """
    found = sorted({address for each in addresses if (address := urls.canonical(each))})
    if found:
        now = time.time()
        rows = [
            {"key": urls.url_id(each), "url": each, "drop_reason": REMOVED, "started_s": now}
            for each in found
        ]
        _add(ledger, pa.Table.from_pylist(rows, schema=LEDGER))
    return len(found)


def _add(ledger: str, table: pa.Table) -> None:
    digest = hashlib.sha256(repr(table.to_pylist()).encode()).hexdigest()
    publish_table(storage.join(ledger, f"{digest[:16]}.parquet"), table)


def check_earlier(config: CrawlConfig) -> None:
    """Refuse earlier crawls that are not there, before anything is fetched.

    Raises:
        ConfigError: A folder holds no crawl log.
    """
    for uri in config.earlier_crawls:
        if not storage.list_names(storage.join(uri, CRAWL_LOG_FOLDER)):
            raise ConfigError(
                f"crawl.earlier_crawls: {uri} holds no {CRAWL_LOG_FOLDER}; name the folder of a "
                "finished curate stage"
            )


def _files(folder: str, in_ledger: bool) -> list[dict[str, Any]]:
    names = storage.list_names(folder)
    return [{"uri": storage.join(folder, name), "in_ledger": in_ledger} for name in names]


def _whose(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    """The rows that hold one of the values."""
    options = pc.SetLookupOptions(values)
    return table.filter(pc.call_function("is_in", [table.column(column)], options))
