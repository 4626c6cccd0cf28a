"""What a data set's embeddings are like: mean, deviation, principal components.

Dimension names: ``row``, ``dim``, ``component``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Float64
from safetensors.numpy import save

from pipeline.errors import DataError

PCA_ROWS = 500_000
"""Rows from which principal components are computed at most: of whole shards, evenly spread."""


def z_statistics(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Mean and standard deviation of raw z_img per dimension, over all rows of all shards.

    Args:
        entries: ``num_samples, sum, sum_of_squares`` per shard, added up in their order.

    Raises:
        DataError: There is no row.
    """
    count = sum(int(entry["num_samples"]) for entry in entries)
    if count == 0:
        raise DataError("the data set holds no sample to embed; look at curate's funnel")
    mean = np.sum([entry["sum"] for entry in entries], axis=0) / count
    square = np.sum([entry["sum_of_squares"] for entry in entries], axis=0) / count
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return {"mean": mean.tolist(), "std": std.tolist()}


def chosen_shards(counts: Sequence[int], max_rows: int = PCA_ROWS) -> list[int]:
    """Shards that together hold about ``max_rows`` rows, evenly spread; all where there are fewer.

    Args:
        counts: Rows per shard.
        max_rows: Rows wanted at most, beyond one shard.
    """
    stride = max(1, -(-sum(counts) // max_rows))
    return list(range(0, len(counts), stride))


def principal_components(
    shards: Iterable[Float16[np.ndarray, " row dim"]], dim: int
) -> dict[str, Float32[np.ndarray, " ..."]]:
    """Principal components of raw z_img.

    Args:
        shards: Rows, shard by shard.
        dim: Dimensions of the embedding.

    Returns:
        ``mean`` (dim), ``components`` (component × dim, orthonormal rows, by falling variance, the
        largest entry of each positive) and ``variance`` (component).
    """
    count, total = 0, np.zeros(dim)
    square: Float64[np.ndarray, " dim dim"] = np.zeros((dim, dim))
    for rows in shards:
        values = rows.astype(np.float64)
        count += len(values)
        total += values.sum(axis=0)
        square += values.T @ values
    mean = total / max(count, 1)
    variance, vectors = np.linalg.eigh(square / max(count, 1) - np.outer(mean, mean))
    components = vectors.T[::-1]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return {
        "mean": mean.astype(np.float32),
        "components": (components * np.sign(largest)).astype(np.float32),
        "variance": np.maximum(variance[::-1], 0.0).astype(np.float32),
    }


def as_file(components: Mapping[str, Float32[np.ndarray, " ..."]]) -> bytes:
    """The artefact: a safetensors file."""
    return save({name: np.ascontiguousarray(value) for name, value in components.items()})
