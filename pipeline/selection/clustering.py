r"""Spherical k-means over a drawn sample of embeddings, and the clusters of all others.

With vectors of length one, the nearest centroid is the one of highest cosine, and a centroid is the
normalised sum of its members (Dhillon and Modha 2001, Sec. 3):

.. math:: c_j = \frac{\sum_{x \in j} x}{\lVert \sum_{x \in j} x \rVert}

A row is in the sample by the hash of its key, and the sample is ordered by that hash: neither
shards nor the order of work enter. Dimension names: ``row``, ``dim``, ``cluster``.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

BLOCK_CELLS = 1 << 23
"""Rows × clusters that are compared at a time."""


def in_sample(
    hashes: UInt64[np.ndarray, " row"], num_rows: int, sample_rows: int
) -> Bool[np.ndarray, " row"]:
    """Which rows may be among the ``sample_rows`` of lowest hash of a data set of ``num_rows``."""
    # Six deviations more than wanted on average; ``lowest`` cuts to the exact number.
    wanted = sample_rows + 6 * sample_rows**0.5 + 16
    if wanted >= num_rows:
        return np.ones(len(hashes), bool)
    return hashes < np.uint64(int(wanted / num_rows * 2.0**64))


def lowest(
    hashes: UInt64[np.ndarray, " row"],
    rows: Float32[np.ndarray, " row dim"],
    sample_rows: int,
) -> Float32[np.ndarray, " sample dim"]:
    """The rows of lowest hash, in that order."""
    return rows[np.argsort(hashes, kind="stable")[:sample_rows]]


def fit(
    sample: Float32[np.ndarray, " row dim"], num_clusters: int, iterations: int
) -> Float32[np.ndarray, " cluster dim"]:
    """Centroids; the first rows of the sample are the first ones, an empty cluster keeps its own.

    Args:
        sample: Vectors of length one, in the order of their hashes.
        num_clusters: Wanted; as many as rows where those are fewer.
        iterations: Rounds of assigning and averaging.
    """
    centroids = sample[:num_clusters].copy()
    for _ in range(iterations):
        owner = nearest(sample, centroids, 1)[:, 0]
        order = np.argsort(owner, kind="stable")
        found, first = np.unique(owner[order], return_index=True)
        sums = np.stack(
            [sample[rows].sum(axis=0) for rows in np.split(order, first[1:])], dtype=np.float32
        )
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids[found] = sums / np.maximum(norms, np.float32(1e-12))
    return centroids


def nearest(
    rows: Float32[np.ndarray, " row dim"],
    centroids: Float32[np.ndarray, " cluster dim"],
    n_probe: int,
) -> Int64[np.ndarray, " row probe"]:
    """The clusters of highest cosine, ``n_probe`` of each row, or all where there are fewer.

    Args:
        rows: Vectors of any length.
        centroids: Of length one.
        n_probe: Clusters wanted of each row.
    """
    num_probes = min(n_probe, len(centroids))
    found = np.empty((len(rows), num_probes), np.int64)
    for block in _blocks(len(rows), len(centroids)):
        cosines = rows[block] @ centroids.T
        if num_probes == 1:
            found[block, 0] = cosines.argmax(axis=1)
        else:
            found[block] = np.argpartition(-cosines, num_probes - 1, axis=1)[:, :num_probes]
    return found


def _blocks(num_rows: int, num_clusters: int) -> Iterator[slice]:
    step = max(1, BLOCK_CELLS // max(1, num_clusters))
    return (slice(start, start + step) for start in range(0, num_rows, step))
