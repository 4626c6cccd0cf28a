r"""How many pairs each query keeps: the same ones in any order, partitioning and retry.

Every draw is a 64-bit hash of (uid, query id, seed); no generator has a state. With t = limit ×
oversampling and count[e] = number of pairs whose caption contains query e:

``sample`` (MetaCLIP, Xu et al. 2023, Algorithm 1, with hashes for the global generator): a pair
stays if any of its queries e draws u(uid, e) < min(1, t / count[e]). Head queries end above t,
because a rare query may keep the pair: t is a rate, no limit.

``cap``: a pair belongs to its rarest query (of equals, the one with the smallest id), and each
query keeps the ⌊t⌋ pairs of lowest hash among those it owns: no query owns more than ⌊t⌋ kept
pairs, and every rejected pair's owner keeps exactly ⌊t⌋. Uids must be unique, as they are once
duplicate pairs have fallen; two uids share a 64-bit rank with probability 2^-64.

Counts and ranks are made per partition and merged; both passes read ``query_ids`` and ``uid``
alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int, Int64, UInt64

from pipeline.candidates import schema
from pipeline.draws import hash64
from pipeline.errors import DataError
from pipeline.queries.config import BalanceConfig

UID_HEX_DIGITS = 32
NO_OWNER = -1
KEEP_ALL = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class Kept:
    """The decision on each pair of one partition."""

    mask: Bool[np.ndarray, " pair"]
    reasons: pa.StringArray
    """``no_query`` or ``over_query_limit``; null where the pair is kept."""
    owner: Int64[np.ndarray, " pair"] | None = None
    """Mode ``cap``: the query that each pair belongs to, ``NO_OWNER`` where it has none."""


def count(query_ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Number of pairs per query in one partition.

    Args:
        query_ids: ``list<uint32>``, ids unique inside each list.

    Returns:
        ``schema.QUERY_COUNTS``: queries that occur, ascending.
    """
    return _counted(_flat(query_ids)[0])


def count_owned(decided: Kept) -> pa.Table:
    """Number of kept pairs that each query owns, as ``schema.QUERY_COUNTS``; mode ``cap`` alone."""
    if decided.owner is None:
        return schema.QUERY_COUNTS.empty_table()
    return _counted(decided.owner[decided.mask])


def merge_counts(
    partial_counts: Iterable[pa.Table], num_queries: int
) -> Int64[np.ndarray, " query"]:
    """Add up the counts of partitions into one number per query; holds one table at a time."""
    total = np.zeros(num_queries, np.int64)
    for table in partial_counts:
        ids = table.column(schema.QUERY_ID).to_numpy().astype(np.int64)
        if len(ids) and ids.max() >= num_queries:
            raise DataError(
                f"query id {ids.max()} in a list of {num_queries} queries; match the candidates "
                "again with this list"
            )
        np.add.at(total, ids, table.column(schema.COUNT).to_numpy())
    return total


def keep_sampled(
    uids: pa.Array | pa.ChunkedArray,
    query_ids: pa.Array | pa.ChunkedArray,
    counts: Int64[np.ndarray, " query"],
    config: BalanceConfig,
) -> Kept:
    """Mode ``sample``: keep a pair if any of its queries draws below t / count.

    Args:
        uids: 32 hex digits per pair.
        query_ids: ``list<uint32>`` per pair.
        counts: Pairs per query over all partitions (``merge_counts``).
        config: Limit, oversampling and seed.
    """
    flat, pairs = _flat(query_ids)
    rate = config.per_query_limit * config.oversampling / np.maximum(counts[flat], 1)
    drawn = _uniform(hashes(uid_words(uids)[pairs], flat, config.seed))
    mask = np.zeros(len(uids), bool)
    mask[pairs[drawn < rate]] = True
    return _kept(mask, query_ids)


def owners(
    uids: pa.Array | pa.ChunkedArray,
    query_ids: pa.Array | pa.ChunkedArray,
    counts: Int64[np.ndarray, " query"],
    seed: int,
) -> tuple[Int64[np.ndarray, " pair"], UInt64[np.ndarray, " pair"]]:
    """Mode ``cap``: the query that each pair belongs to, and the pair's rank there.

    Returns:
        Id of the owner (``NO_OWNER`` where the pair has no query), and a rank that is a hash of
        (uid, owner, seed); the lowest ranks stay.
    """
    flat, pairs = _flat(query_ids)
    by_rarity = np.argsort(counts, kind="stable")  # of equals the smallest id first
    place = np.empty_like(by_rarity)
    place[by_rarity] = np.arange(len(counts))
    first_match = np.flatnonzero(np.diff(pairs, prepend=-1))
    owner = np.full(len(uids), NO_OWNER, np.int64)
    if first_match.size:
        owner[pairs[first_match]] = by_rarity[np.minimum.reduceat(place[flat], first_match)]
    return owner, hashes(uid_words(uids), np.maximum(owner, 0), seed)


def ranks(
    uids: pa.Array | pa.ChunkedArray,
    query_ids: pa.Array | pa.ChunkedArray,
    counts: Int64[np.ndarray, " query"],
    config: BalanceConfig,
) -> pa.Table:
    """Mode ``cap``, first pass: the ranks of one partition that may still decide a threshold.

    Returns:
        ``schema.QUERY_RANKS``: per owner the lowest ranks, at most the limit of them.
    """
    owner, rank = owners(uids, query_ids, counts, config.seed)
    owned = owner != NO_OWNER
    return _lowest(owner[owned], rank[owned], cap_limit(config))


def merge_ranks(partial_ranks: Sequence[pa.Table], config: BalanceConfig) -> pa.Table:
    """The lowest ranks per owner over partitions; may be applied to its own results, as a tree."""
    tables = [schema.QUERY_RANKS.empty_table(), *partial_ranks]
    together = pa.concat_tables(tables)
    owner = together.column(schema.QUERY_ID).to_numpy().astype(np.int64)
    return _lowest(owner, together.column(schema.RANK).to_numpy(), cap_limit(config))


def thresholds(
    merged_ranks: pa.Table, num_queries: int, config: BalanceConfig
) -> UInt64[np.ndarray, " query"]:
    """The highest rank that each query keeps: its ⌊t⌋-th lowest, or every one where it has fewer.

    Args:
        merged_ranks: Result of ``merge_ranks`` over all partitions.
        num_queries: Length of the query list.
        config: Limit and oversampling.
    """
    limit = cap_limit(config)
    owner = merged_ranks.column(schema.QUERY_ID).to_numpy()
    rank = merged_ranks.column(schema.RANK).to_numpy()
    found, first, num = np.unique(owner, return_index=True, return_counts=True)
    highest = np.full(num_queries, KEEP_ALL, np.uint64)
    full = num >= limit
    highest[found[full]] = rank[first[full] + limit - 1]
    return highest


def keep_capped(
    uids: pa.Array | pa.ChunkedArray,
    query_ids: pa.Array | pa.ChunkedArray,
    counts: Int64[np.ndarray, " query"],
    highest: UInt64[np.ndarray, " query"],
    config: BalanceConfig,
) -> Kept:
    """Mode ``cap``, second pass: keep a pair if its rank is not above its owner's threshold.

    Args:
        uids: 32 hex digits per pair.
        query_ids: ``list<uint32>`` per pair.
        counts: Pairs per query over all partitions (``merge_counts``).
        highest: Result of ``thresholds``.
        config: Limit, oversampling and seed.
    """
    owner, rank = owners(uids, query_ids, counts, config.seed)
    mask = (owner != NO_OWNER) & (rank <= highest[np.maximum(owner, 0)])
    return replace(_kept(mask, query_ids), owner=owner)


def cap_limit(config: BalanceConfig) -> int:
    """Pairs that a query may own in mode ``cap``: limit × oversampling, rounded down."""
    # 100 × 1.15 is 114.999… in binary.
    return int(config.per_query_limit * config.oversampling + 1e-6)


def _counted(ids: Int[np.ndarray, " match"]) -> pa.Table:
    counts = np.bincount(ids)
    found = np.flatnonzero(counts)
    columns = [pa.array(found.astype(np.uint32)), pa.array(counts[found])]
    return pa.table(columns, schema=schema.QUERY_COUNTS)


def _flat(
    query_ids: pa.Array | pa.ChunkedArray,
) -> tuple[Int[np.ndarray, " match"], Int64[np.ndarray, " match"]]:
    """All matches of a partition as (query id, index of the pair), in order."""
    array = query_ids.combine_chunks() if isinstance(query_ids, pa.ChunkedArray) else query_ids
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ids = array.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return ids, np.repeat(np.arange(len(array), dtype=np.int64), lengths)


def uid_words(uids: pa.Array | pa.ChunkedArray) -> UInt64[np.ndarray, "pair 2"]:
    """The 128 bits of each uid as two words."""
    array = uids.combine_chunks() if isinstance(uids, pa.ChunkedArray) else uids
    lengths = pc.call_function("binary_length", [array]).to_numpy(zero_copy_only=False)
    if (lengths != UID_HEX_DIGITS).any():
        raise DataError(f"uids must have {UID_HEX_DIGITS} hex digits; match the candidates again")
    column = pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array)
    text = pc.call_function("binary_join", [column, pa.scalar("")])[0].as_py()
    return np.frombuffer(bytes.fromhex(text), "<u8").astype(np.uint64).reshape(-1, 2)


def hashes(
    words: UInt64[np.ndarray, "row 2"], query_ids: Int[np.ndarray, " row"], seed: int
) -> UInt64[np.ndarray, " row"]:
    """One 64-bit hash per (uid, query id, seed); arrays only, for their arithmetic wraps."""
    key = np.full(1, hash64("balance", seed), np.uint64)
    state = _mix(query_ids.astype(np.uint64) + key)
    state = _mix(state ^ words[:, 0])
    return _mix(state ^ words[:, 1])


def _mix(state: UInt64[np.ndarray, " row"]) -> UInt64[np.ndarray, " row"]:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014, Fig. 16), a bijection."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _uniform(hashes: UInt64[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Numbers in [0, 1) from the upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _lowest(
    owner: Int64[np.ndarray, " pair"], rank: UInt64[np.ndarray, " pair"], limit: int
) -> pa.Table:
    """Per owner the ``limit`` lowest ranks, sorted by owner and rank."""
    order = np.lexsort((rank, owner))
    owner, rank = owner[order], rank[order]
    _, first, inverse = np.unique(owner, return_index=True, return_inverse=True)
    place = np.arange(len(owner)) - first[inverse]
    chosen = place < limit
    return pa.table(
        [pa.array(owner[chosen].astype(np.uint32)), pa.array(rank[chosen])],
        schema=schema.QUERY_RANKS,
    )


def _kept(mask: Bool[np.ndarray, " pair"], query_ids: pa.Array | pa.ChunkedArray) -> Kept:
    array = query_ids.combine_chunks() if isinstance(query_ids, pa.ChunkedArray) else query_ids
    has_query = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) > 0
    reasons = np.where(has_query, schema.OVER_QUERY_LIMIT, schema.NO_QUERY)
    return Kept(mask, pa.array(reasons, pa.string(), mask=mask))
