"""Score tables as whoever decides reads them: spans of consecutive shards, a few columns at a time.

A span holds many shards where they are small, so that arithmetic is over long arrays; a few spans
are in memory at once. Rows are numbered through all shards.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from pipeline.curation.exchange import NUM_READERS, read_ahead
from pipeline.shards.score_files import ScoredDataset

SPAN_ROWS = 1 << 18
"""Rows of one span, beyond its first shard."""
Found = TypeVar("Found")


class Span(NamedTuple):
    """Shards ``first`` to ``after`` and their rows."""

    first: int
    after: int
    rows: slice
    """Global rows."""


class Columns:
    """The columns of a scored data set."""

    def __init__(self, scored: ScoredDataset) -> None:
        """Stand on a finished `score` stage."""
        self.scored = scored
        self.first_rows = scored.first_rows()
        """Global row of each shard's first sample and, last, the number of samples."""
        self._spans = [*_spans(self.first_rows)]

    @property
    def num_rows(self) -> int:
        """Samples of all shards."""
        return int(self.first_rows[-1])

    def read(self, names: Sequence[str]) -> Iterator[tuple[Span, pa.Table]]:
        """Every span with its columns, in order."""
        return self.map(names, lambda span, table: (span, table))

    def map(self, names: Sequence[str], work: Callable[[Span, pa.Table], Found]) -> Iterator[Found]:
        """What ``work`` makes of every span, in order; it runs in threads, ahead of the caller."""
        # More threads than cores would only hold more spans.
        readers = min(NUM_READERS, os.cpu_count() or 1)
        return read_ahead(partial(self._work, names=[*names], work=work), self._spans, readers)

    def _work(self, span: Span, names: list[str], work: Callable[[Span, pa.Table], Found]) -> Found:
        tables = [self.scored.table(shard, names) for shard in range(span.first, span.after)]
        return work(span, pa.concat_tables(tables).combine_chunks())

    def take(self, names: Sequence[str], rows: Int64[np.ndarray, " row"]) -> pa.Table:
        """Columns of some global rows, which ascend."""

        def chosen(span: Span, table: pa.Table) -> pa.Table:
            first, after = np.searchsorted(rows, [span.rows.start, span.rows.stop])
            return table.take(pa.array(rows[first:after] - span.rows.start))

        return pa.concat_tables(self.map(names, chosen)).combine_chunks()


def _spans(first_rows: Int64[np.ndarray, " bound"]) -> Iterator[Span]:
    starts = [0]
    for shard in range(1, len(first_rows) - 1):
        if first_rows[shard + 1] - first_rows[starts[-1]] > SPAN_ROWS:
            starts.append(shard)
    for first, after in pairwise([*starts, len(first_rows) - 1]):
        yield Span(first, after, slice(int(first_rows[first]), int(first_rows[after])))
