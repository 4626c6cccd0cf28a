"""How well an order mixes: pairs of a batch's samples that are alike, against a perfect shuffle.

Samples of one shard were crawled together and those of one host look alike; a gradient should see
them no more often together than chance would bring them. Dimension names: ``sample``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from pipeline.shards.sampler import SampleOrder

Groups = Callable[[Int[np.ndarray, " sample 2"]], Int[np.ndarray, " sample"]]
"""The group, such as a number of the host, of places: shard number and offset."""


@dataclass(frozen=True)
class Mixing:
    """Share of the pairs within a batch whose two samples are of one group."""

    measured: float
    """Mean over batches of the order."""
    shuffled: float
    """Expected of batches that a perfect shuffle of all samples would make."""


def mixing(
    order: SampleOrder,
    group_of: Groups,
    group_sizes: Sequence[int],
    global_batch_size: int,
    num_batches: int,
    first_batch: int = 0,
) -> Mixing:
    """Measure batches of an order.

    Args:
        order: Of the samples.
        group_of: Says what is alike.
        group_sizes: Samples of each group in the whole data set.
        global_batch_size: Samples of a batch.
        num_batches: How many are measured.
        first_batch: From here on.
    """
    alike = 0
    for batch in range(first_batch, first_batch + num_batches):
        start = batch * global_batch_size
        places = order.locate(np.arange(start, start + global_batch_size, dtype=np.int64))
        alike += _pairs(np.unique(group_of(places), return_counts=True)[1])
    possible = global_batch_size * (global_batch_size - 1)
    sizes = np.asarray(group_sizes, np.int64)
    total = int(sizes.sum())
    return Mixing(alike / (num_batches * possible), _pairs(sizes) / (total * (total - 1)))


def _pairs(sizes: Int[np.ndarray, " group"]) -> int:
    return int((sizes * (sizes - 1)).sum())
