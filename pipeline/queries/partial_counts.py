"""Counts of one partition on disk, cut into buckets, and their sum over all partitions.

A partial file is Parquet with the columns of ``schema.NGRAM_COUNTS`` and one row group per bucket,
in order, an empty bucket as an empty one; inside a bucket rows are sorted. The bucket follows from
the entry alone, so one bucket of all files holds all there is to know of its entries, and a task
that merges a few buckets never sees the others. Nothing is left out on the way.
"""

import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from pipeline import storage
from pipeline.candidates import schema
from pipeline.queries.config import QueriesExecution


def bucket_of(text: str, num_buckets: int) -> int:
    """The bucket of a word, or of whatever else is counted."""
    return zlib.crc32(text.encode()) % num_buckets


@dataclass(frozen=True)
class Buckets:
    """Counts in memory, sorted by bucket, then by entry."""

    table: pa.Table
    """``schema.NGRAM_COUNTS``, perhaps with more columns."""
    home: Int64[np.ndarray, " entry"]
    """The bucket of each row, ascending."""
    num_buckets: int

    @classmethod
    def of(cls, table: pa.Table, keys: pa.Array | pa.ChunkedArray, num_buckets: int) -> "Buckets":
        """Rows by the buckets of their keys; the order inside a bucket stays.

        Args:
            table: The rows.
            keys: Of each row, the text that tells its bucket.
            num_buckets: Buckets in all.
        """
        home = np.array([bucket_of(key, num_buckets) for key in keys.to_pylist()], np.int64)
        order = np.argsort(home, kind="stable")
        return cls(table.take(pa.array(order)), home[order], num_buckets)

    @classmethod
    def of_counter(cls, counts: Counter[str], num_buckets: int) -> "Buckets":
        """What a counter holds, each entry in its own bucket."""
        names = sorted(counts)
        columns = [names, [counts[name] for name in names]]
        table = pa.table(columns, schema=schema.NGRAM_COUNTS)
        return cls.of(table, table.column(schema.NGRAM), num_buckets)

    def split(self) -> Iterator[pa.Table]:
        """The rows of every bucket, in order."""
        ends = np.searchsorted(self.home, np.arange(self.num_buckets), side="right").tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield self.table.slice(start, end - start)


def write(uri: str, buckets: Buckets) -> list[int]:
    """Publish a partial file; returns the rows of every bucket."""
    return _publish(uri, buckets.split(), buckets.table.schema)


def summed(tables: Iterable[pa.Table], max_rows: int) -> pa.Table:
    """One row per entry with the sum of its counts, sorted; sums up early to stay small."""
    held: list[pa.Table] = [schema.NGRAM_COUNTS.empty_table()]
    for table in tables:
        held.append(table)
        if sum(each.num_rows for each in held[1:]) > max_rows + held[0].num_rows:
            held = [_sum(held)]
    return _sum(held).sort_by(schema.NGRAM)


def merged(uris: Sequence[str], first: int, last: int, max_rows: int) -> pa.Table:
    """The sum of some buckets over partial files, sorted by entry.

    Args:
        uris: Partial files; their order does not matter.
        first: The first bucket.
        last: The one behind the last.
        max_rows: Rows in memory beside those of the result, about.
    """
    return summed((read(uri, first, last) for uri in uris), max_rows)


def read(uri: str, first: int, last: int) -> pa.Table:
    """Buckets of a partial file, from the first up to but without the last."""
    with storage.open_for_read(uri) as file:
        return pq.ParquetFile(file).read_row_groups(list(range(first, last)))


def at_least(table: pa.Table, num: int) -> pa.Table:
    """The rows with a count of at least ``num``."""
    return table.filter(pa.array(table.column(schema.COUNT).to_numpy() >= num))


def bucket_ranges(num_rows: Sequence[int], max_rows: int) -> list[tuple[int, int]]:
    """Neighbouring buckets for one task each: at most ``max_rows`` rows, or a single bucket."""
    ranges, first, held = [], 0, 0
    for bucket, num in enumerate(num_rows):
        if held + num > max_rows and bucket > first:
            ranges.append((first, bucket))
            first, held = bucket, 0
        held += num
    return [*ranges, (first, len(num_rows))]


class Spill:
    """The counts of one partition: in memory, or in temporary files where they grow too many."""

    def __init__(self, execution: QueriesExecution) -> None:
        """Start with nothing; the settings say how many entries may be in memory."""
        self._max_entries = execution.max_entries
        self._folder = Path(tempfile.mkdtemp(prefix="counts-"))
        self._paths: list[str] = []

    def __enter__(self) -> "Spill":
        """Temporary files live until the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete them."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, counts: Buckets) -> None:
        """Put counts aside; what they were taken from can start again."""
        path = str(self._folder / f"{len(self._paths):05d}.parquet")
        write(path, counts)
        self._paths.append(path)

    def publish(
        self, uri: str, rest: Buckets, keep: Callable[[pa.Table], pa.Table] = lambda table: table
    ) -> list[int]:
        """Write the sum of all that was put aside and ``rest``; returns the rows of every bucket.

        Args:
            uri: The partial file.
            rest: Counts that are still in memory.
            keep: Leaves out rows that this partition alone can judge.
        """
        buckets = enumerate(rest.split())
        sums = (self._sum(bucket, table) if self._paths else table for bucket, table in buckets)
        return _publish(uri, map(keep, sums), rest.table.schema)

    def _sum(self, bucket: int, rest: pa.Table) -> pa.Table:
        tables = [rest, *(read(path, bucket, bucket + 1) for path in self._paths)]
        return summed(tables, self._max_entries)


def _publish(uri: str, buckets: Iterable[pa.Table], columns: pa.Schema) -> list[int]:
    rows = []
    encodings = dict.fromkeys(columns.names, "PLAIN") | {schema.NGRAM: "DELTA_BYTE_ARRAY"}
    options = {"compression": "zstd", "use_dictionary": False, "column_encoding": encodings}
    with (
        storage.open_for_publish(uri) as file,
        pq.ParquetWriter(file, columns, **options) as writer,
    ):
        for table in buckets:
            rows.append(table.num_rows)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return rows


def _sum(tables: Sequence[pa.Table]) -> pa.Table:
    together = pa.concat_tables(tables)
    total = together.group_by(schema.NGRAM).aggregate([(schema.COUNT, "sum")])
    renamed = total.rename_columns([schema.NGRAM, schema.COUNT])
    return renamed.select(schema.NGRAM_COUNTS.names).cast(schema.NGRAM_COUNTS)
