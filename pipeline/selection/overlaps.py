"""How close a sample comes to the pictures of the evaluation sets.

Dimension names: ``row``, ``dim``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, Int16, Int64, UInt64

from pipeline.selection.evaluation_sets import EvaluationPictures
from pipeline.shards.embedding_files import cosine, unit

MAX_CELLS = 1 << 22
"""Samples × evaluation pictures that are compared at a time."""


@dataclass(frozen=True)
class Overlaps:
    """The nearest evaluation picture of each sample."""

    owner: Int64[np.ndarray, " row"]
    """Index of the set of the picture with the closest embedding."""
    cosine: Float32[np.ndarray, " row"]
    bits: Int16[np.ndarray, " row"]
    """Lowest distance of perceptual hashes, over all sets."""


def overlaps(
    z_img: Float16[np.ndarray, " row dim"],
    phash: UInt64[np.ndarray, " row"],
    pictures: EvaluationPictures,
) -> Overlaps:
    """Compare samples with every evaluation picture.

    Args:
        z_img: Raw embeddings.
        phash: Perceptual hashes.
        pictures: Of all sets.
    """
    nearest = np.empty(len(z_img), np.int64)
    bits = np.empty(len(z_img), np.int16)
    for rows in _blocks(len(z_img), len(pictures.phash)):
        nearest[rows] = (unit(z_img[rows]) @ pictures.unit.T).argmax(axis=1)
        differing = np.bitwise_count(phash[rows, None] ^ pictures.phash[None, :])
        bits[rows] = differing.min(axis=1)
    return Overlaps(pictures.owner[nearest], cosine(z_img, pictures.z_img[nearest]), bits)


def _blocks(num_rows: int, num_pictures: int) -> Iterator[slice]:
    step = max(1, MAX_CELLS // max(1, num_pictures))
    return (slice(start, start + step) for start in range(0, num_rows, step))
