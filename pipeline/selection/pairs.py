"""Pairs of almost equal embeddings within one cluster.

Rows come in the order in which they would lead (larger side, then higher similarity, then key), so
each row is compared with those before it, by tiles of one matrix product; whether a pair counts is
decided by its cosine computed alone, so that tiles leave no trace. Dimension names: ``row``,
``dim``, ``pair``.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int, Int64

from pipeline.shards.embedding_files import unit

TILE_CELLS = 1 << 22
TILE_ROWS = 256
MARGIN = np.float32(1e-3)
"""A matrix product in float32 is closer than this to the cosine computed alone."""
PAIRS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class ClusterPairs:
    """What was found in one cluster."""

    first: Int64[np.ndarray, " pair"]
    """Index of the row that would lead."""
    second: Int64[np.ndarray, " pair"]
    cosine: Float32[np.ndarray, " pair"]
    num_cut: int
    """Rows with more leaders than are recorded."""


def cluster_pairs(z_img: Float16[np.ndarray, " row dim"], floor: float, limit: int) -> ClusterPairs:
    """All pairs of a cluster from a cosine on.

    Args:
        z_img: Raw embeddings, in the order in which they would lead.
        floor: Lowest cosine of a pair.
        limit: Pairs recorded at most of a row with those before it: half with the first ones, half
            with the closest.
    """
    vectors = unit(z_img)
    first, second, num_cut = [], [], 0
    start = 0
    while start < len(vectors):
        stop = min(len(vectors), start + max(1, min(TILE_ROWS, TILE_CELLS // (start + TILE_ROWS))))
        cosines = vectors[start:stop] @ vectors[:stop].T
        close = cosines >= np.float32(floor) - MARGIN
        close[:, start:] = np.tril(close[:, start:], -1)
        num_cut += _cut(close, cosines, limit)
        later, earlier = np.divmod(np.flatnonzero(close), stop)
        first.append(earlier)
        second.append(later + start)
        start = stop
    a, b = (np.concatenate([np.empty(0, np.int64), *parts]) for parts in (first, second))
    found = _cosines(vectors, a, b)
    kept = found >= np.float32(floor)
    return ClusterPairs(a[kept], b[kept], found[kept], num_cut)


def _cut(
    close: Bool[np.ndarray, " row before"], cosines: Float32[np.ndarray, " row before"], limit: int
) -> int:
    """Keep of a row with too many leaders the first ones and the closest; returns how many rows."""
    crowded = np.flatnonzero(np.count_nonzero(close, axis=1) > limit)
    for row in crowded.tolist():
        before = np.flatnonzero(close[row])
        rest = before[limit // 2 :]
        # Rounded: of equally close ones the first, not the one that a last bit prefers.
        closest = np.argsort(-np.round(cosines[row, rest], 3), kind="stable")
        close[row, rest[closest[limit - limit // 2 :]]] = False
    return len(crowded)


def _cosines(
    vectors: Float32[np.ndarray, " row dim"],
    first: Int[np.ndarray, " pair"],
    second: Int[np.ndarray, " pair"],
) -> Float32[np.ndarray, " pair"]:
    found = np.empty(len(first), np.float32)
    for start in range(0, len(first), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        found[part] = (vectors[first[part]] * vectors[second[part]]).sum(axis=1)
    return found
