"""The exact final balance of queries, by the rules of ``pipeline.queries.balancing``.

There pairs are balanced before the crawl, here samples after everything else was decided; the draws
are of sample keys. Samples without a query are not balanced.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, UInt8, UInt64

from pipeline.candidates import schema
from pipeline.queries import balancing
from pipeline.queries.balancing import KEEP_ALL
from pipeline.queries.config import BalanceConfig
from pipeline.selection.columns import Columns, Span
from pipeline.selection.numbers import uids
from pipeline.selection.thresholds import KEPT
from pipeline.shards.select_config import ProfileConfig

READ = ("key", "queries")
RANKS_HELD = 1 << 19
"""Ranks that are gathered before they are cut to what decides."""


def over_limit(
    columns: Columns, codes: UInt8[np.ndarray, " row"], profile: ProfileConfig, seed: int
) -> Bool[np.ndarray, " row"]:
    """Which samples of those kept so far exceed the limits of their queries.

    Args:
        columns: The scores.
        codes: Of every sample, ``KEPT`` where nothing has dropped it.
        profile: Its limit and the way it is meant.
        seed: Of the draws.
    """
    assert profile.max_per_query is not None
    config = BalanceConfig(mode=profile.balance, per_query_limit=profile.max_per_query, seed=seed)
    counts = _counts(columns, codes)
    over = np.zeros(columns.num_rows, bool)
    if not (counts > config.per_query_limit).any():
        return over
    highest = _highest(columns, codes, counts, config) if config.mode == "cap" else None

    def decide(span: Span, table: pa.Table) -> None:
        rows, keys, queries = _crowded(span, table, codes, counts, config.per_query_limit)
        if highest is None:
            kept = balancing.keep_sampled(keys, queries, counts, config)
        else:
            kept = balancing.keep_capped(keys, queries, counts, highest, config)
        over[rows] = ~kept.mask

    for _ in columns.map(READ, decide):
        pass
    return over


def _counts(columns: Columns, codes: UInt8[np.ndarray, " row"]) -> Int64[np.ndarray, " query"]:
    """Samples per query among those kept so far."""

    def count(span: Span, table: pa.Table) -> pa.Table:
        alive = pa.array(codes[span.rows] == KEPT)
        return balancing.count(table["queries"].filter(alive))

    parts = [*columns.map(["queries"], count)]
    ids = [part.column(schema.QUERY_ID).to_numpy() for part in parts]
    num_queries = max((int(each.max()) + 1 for each in ids if len(each)), default=0)
    return balancing.merge_counts(parts, num_queries)


def _highest(
    columns: Columns,
    codes: UInt8[np.ndarray, " row"],
    counts: Int64[np.ndarray, " query"],
    config: BalanceConfig,
) -> UInt64[np.ndarray, " query"]:
    """Mode ``cap``: the highest rank that each query keeps."""

    def rank(span: Span, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        _, keys, queries = _crowded(span, table, codes, counts, config.per_query_limit)
        return balancing.owners(keys, queries, counts, config.seed)

    held = [schema.QUERY_RANKS.empty_table()]
    num_held, allowed = 0, RANKS_HELD
    highest = np.full(len(counts), KEEP_ALL, np.uint64)
    for owner, ranks in columns.map(READ, rank):
        may_stay = ranks <= highest[owner]
        part = [pa.array(owner[may_stay].astype(np.uint32)), pa.array(ranks[may_stay])]
        held.append(pa.table(part, schema=schema.QUERY_RANKS))
        num_held += held[-1].num_rows
        if num_held > allowed:
            held = [balancing.merge_ranks(held, config)]
            highest = balancing.thresholds(held[0], len(counts), config)
            num_held = held[0].num_rows
            allowed = max(RANKS_HELD, 2 * num_held)
    return balancing.thresholds(balancing.merge_ranks(held, config), len(counts), config)


def _crowded(
    span: Span,
    table: pa.Table,
    codes: UInt8[np.ndarray, " row"],
    counts: Int64[np.ndarray, " query"],
    limit: int,
) -> tuple[Int64[np.ndarray, " crowded"], pa.Array, pa.Array]:
    """Global rows, uids and queries of a span's samples that a limit may touch.

    A sample that has a query with no more samples than the limit stays in either mode: that query
    keeps all of its own, and owns this one if it is the rarest.
    """
    queries = table["queries"].combine_chunks()
    lengths = queries.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    alive = codes[span.rows] == KEPT
    filled = np.flatnonzero(lengths)
    rarest = np.zeros(len(lengths), np.int64)
    if filled.size:
        starts = np.cumsum(lengths) - lengths
        found = counts[np.minimum(queries.flatten().to_numpy(), len(counts) - 1)]
        rarest[filled] = np.minimum.reduceat(found, starts[filled])
    chosen = np.flatnonzero(alive & (rarest > limit))
    keys, queries = (
        array.take(pa.array(chosen)) for array in (table["key"].combine_chunks(), queries)
    )
    return chosen + span.rows.start, uids(keys), queries
