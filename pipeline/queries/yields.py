"""What the queries found and keep: a table of counts, and the few numbers that sum it up."""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from pipeline.candidates import schema
from pipeline.queries.config import BalanceConfig

FILE = "query_counts.parquet"
MATCHED, OWNED, KEPT = "matched", "owned", "kept"
"""Columns: pairs that contain the query before balancing; kept pairs that it owns (mode ``cap``,
else null); kept pairs that contain it, whoever owns them."""

Counts = Int64[np.ndarray, " query"]


def table(listed: pa.Table, *, matched: Counts, owned: Counts | None, kept: Counts) -> pa.Table:
    """Query, source and counts, one row per query in the order of ids.

    Args:
        listed: The query list, ``schema.QUERY_LIST``.
        matched: Pairs per query before balancing.
        owned: Kept pairs per owner; None in mode ``sample``, where nobody owns a pair.
        kept: Kept pairs per query.
    """
    columns = {
        schema.QUERY: listed.column(schema.QUERY),
        schema.SOURCE: listed.column(schema.SOURCE),
        MATCHED: matched,
        OWNED: pa.nulls(len(kept), pa.int64()) if owned is None else owned,
        KEPT: kept,
    }
    return pa.table(columns)


def facts(counted: pa.Table, config: BalanceConfig) -> dict[str, object]:
    """The numbers of a report.

    ``tail_share_before`` and ``_after``: share of all matches that belong to queries within the
    limit (before balancing). ``num_above_limit`` and ``largest_kept``: in mode ``sample`` the
    overshoot, in mode ``cap`` what pairs of rarer queries add to frequent ones.
    """
    limit = config.per_query_limit * config.oversampling
    matched, kept = (counted.column(name).to_numpy() for name in (MATCHED, KEPT))
    is_tail = matched <= limit
    found: dict[str, object] = {
        "limit": limit,
        "num_queries": len(matched),
        "num_matched": int(np.count_nonzero(matched)),
        "num_head": int(np.count_nonzero(~is_tail)),
        "largest_matched": int(matched.max(initial=0)),
        "largest_kept": int(kept.max(initial=0)),
        "num_above_limit": int(np.count_nonzero(kept > limit)),
        "tail_share_before": _share(matched, is_tail),
        "tail_share_after": _share(kept, is_tail),
        "sources": _sources(counted),
    }
    if counted.column(OWNED).null_count == 0:
        found["largest_owned"] = int(counted.column(OWNED).to_numpy().max(initial=0))
    return found


def _share(counts: Counts, of: Bool[np.ndarray, " query"]) -> float:
    total = int(counts.sum())
    return float(counts[of].sum() / total) if total else 0.0


def _sources(counted: pa.Table) -> dict[str, dict[str, int]]:
    """Per source of queries: how many there are, how many found a pair, and their matches."""
    grouped = counted.append_column(
        "has_matched", pa.array((counted.column(MATCHED).to_numpy() > 0).astype(np.int64))
    ).group_by(schema.SOURCE)
    sums = grouped.aggregate(
        [(schema.QUERY, "count"), ("has_matched", "sum"), (MATCHED, "sum"), (KEPT, "sum")]
    )
    return {
        row[schema.SOURCE]: {
            "num_queries": row[f"{schema.QUERY}_count"],
            "num_matched": row["has_matched_sum"],
            MATCHED: row[f"{MATCHED}_sum"],
            KEPT: row[f"{KEPT}_sum"],
        }
        for row in sorted(sums.to_pylist(), key=lambda row: row[schema.SOURCE])
    }
