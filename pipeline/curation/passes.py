"""Passes of the crawl: the first asks for everything, each further one for what may have passed.

A pass is a generation of working files that are never changed: a pool of pictures, its table, a
log. Together they read as if one pass had met no failure: same order, same places.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.images import failures
from pipeline.images.fetch import host_of
from pipeline.shards.writer import read_table
from pipeline.steps import has_result, result

FIRST = "crawl"
ATTEMPT = "attempt"
"""In what a pass returns: the name of its files."""


def step_name(number: int) -> str:
    """The step of a pass: ``crawl``, later ``retry-1`` and so on."""
    return FIRST if number == 0 else f"retry-{number}"


def pool_name(attempt: str) -> str:
    """The pool of an attempt at a pass, in a stage's folder of working files."""
    return f"pool/{attempt}.bin"


class Pools:
    """The pools of one bucket, of all passes, seen as one file."""

    def __init__(self, folder: str, bucket: int) -> None:
        """Find the bucket's finished passes among a stage's working files."""
        self._folder, self._passes = folder, []
        while has_result(folder, step_name(len(self._passes)), bucket):
            self._passes.append(result(folder, step_name(len(self._passes)), bucket))

    def logs(self) -> list[pa.Table]:
        """The log of every pass."""
        return [read_table(self._file("log", done)) for done in self._passes]

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """The pictures of all passes by key, ``offset`` counted from the first pool's beginning."""
        tables, start = [], 0
        for done in self._passes:
            tables.append(_moved(read_table(self._file("pool", done), columns), start))
            start += done["num_pool_bytes"]
        together = pa.concat_tables(tables)
        return together if len(tables) == 1 else together.sort_by("key")

    @contextmanager
    def opened(self) -> Iterator["JoinedFiles"]:
        """All pools, to be read at the offsets of the table."""
        found = [done for done in self._passes if done["num_pool_bytes"]]
        places = [storage.join(self._folder, pool_name(done[ATTEMPT])) for done in found]
        with ExitStack() as stack:
            # Read at many small places, so a store's pools are fetched whole.
            paths = [stack.enter_context(storage.local_copy(place)) for place in places]
            files = [stack.enter_context(path.open("rb")) for path in paths]
            yield JoinedFiles(files, [done["num_pool_bytes"] for done in found])

    def _file(self, kind: str, done: Mapping[str, Any]) -> str:
        return storage.join(self._folder, kind, f"{done[ATTEMPT]}.parquet")


class JoinedFiles:
    """Binary files, one behind the other; nothing that is read lies in two of them."""

    def __init__(self, files: Sequence[Any], lengths: Sequence[int]) -> None:
        """Join files.

        Args:
            files: Opened for reading, seekable.
            lengths: Bytes of each.
        """
        self._files = list(files)
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._current = 0

    def seek(self, offset: int) -> None:
        """Go to a byte of the whole."""
        index = int(np.searchsorted(self._starts, offset, side="right")) - 1
        self._current = min(index, len(self._files) - 1)
        self._files[self._current].seek(offset - int(self._starts[self._current]))

    def read(self, length: int) -> bytes:
        """The next bytes of the file that was sought."""
        return self._files[self._current].read(length)


def pending(log: pa.Table) -> pa.Table:
    """The rows of a pass's log that the next pass asks for: what may pass, and nothing else."""
    return log.filter(log.column("transient"))


def merged_log(logs: Sequence[pa.Table]) -> pa.Table:
    """One row per address: what a later pass asked for replaces its row and counts on."""
    rows: dict[str, dict[str, Any]] = {}
    for log in logs:
        for row in log.to_pylist():
            known = rows.get(row["key"])
            if known is not None:
                row["attempts"] += known["attempts"]
                row["duration_s"] += known["duration_s"]
                row["started_s"] = known["started_s"]
            rows[row["key"]] = row
    return pa.Table.from_pylist(list(rows.values()), schema=logs[0].schema)


def left_out(log: pa.Table) -> dict[str, int]:
    """Pictures per host that were left out because the host is too large for the crawl."""
    rows = zip(log.column("drop_reason").to_pylist(), log.column("url").to_pylist(), strict=True)
    return dict(Counter(host_of(url) for why, url in rows if why == failures.OVER_HOST_BUDGET))


def _moved(table: pa.Table, start: int) -> pa.Table:
    if start == 0 or "offset" not in table.column_names:
        return table
    index = table.schema.get_field_index("offset")
    return table.set_column(
        index, table.schema.field(index), pc.call_function("add", [table.column("offset"), start])
    )
