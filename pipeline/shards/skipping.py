"""An order that leaves ranges of another one out, such as those around a spike of the loss."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from pipeline.shards.sampler import SampleOrder

Range = tuple[int, int]
"""First position, and the one after the last."""


class SkippingOrder:
    """Positions of what is left, in the order they had.

    Where the ranges begin and end at multiples of the number of lanes, a lane stays what it was.
    """

    def __init__(self, order: SampleOrder, skipped: Sequence[Range]) -> None:
        """Leave ranges out.

        Args:
            order: The whole.
            skipped: Its positions that are left out, ascending and apart.
        """
        self.num_lanes = order.num_lanes
        self._order, self._skipped = order, tuple(skipped)

    def locate(self, positions: Int[np.ndarray, " sample"]) -> Int[np.ndarray, " sample 2"]:
        """Shard number and offset among the shard's kept samples, per position."""
        for first, end in self._skipped:
            positions = np.where(positions >= first, positions + (end - first), positions)
        return self._order.locate(positions)

    def times_read(self, shard: int, offset: int, num_positions: int) -> int:
        """How many of the first positions are one sample."""

        def before(position: int) -> int:
            return self._order.times_read(shard, offset, position)

        left_out = 0
        for first, end in self._skipped:
            if num_positions > first:
                num_positions += end - first
                left_out += before(end) - before(first)
        return before(num_positions) - left_out


def without(order: SampleOrder, skipped: Sequence[Range]) -> SampleOrder:
    """The order without ranges of it; itself where there are none."""
    return SkippingOrder(order, skipped) if skipped else order
