"""Random by hash: one seed draws the same samples in any order of reading, in little memory."""

import heapq
from collections.abc import Sequence
from typing import Generic, TypeVar

from pipeline.draws import hash64

Drawable = TypeVar("Drawable")


class Drawn(Generic[Drawable]):
    """Of everything offered the ``number`` things whose names have the lowest hashes."""

    def __init__(self, number: int, seed: int, purpose: str = "look") -> None:
        """Draw so many.

        Args:
            number: Things to keep; at least 0.
            seed: Another one draws others.
            purpose: Draws of two purposes know nothing of each other.
        """
        self._number, self._seed, self._purpose = number, seed, purpose
        self._heap: list[tuple[int, str, Drawable]] = []
        self.offered = 0
        """How many there were to draw from."""

    def offer(self, names: Sequence[str], things: Sequence[Drawable]) -> None:
        """Offer things under names that differ."""
        self.offered += len(names)
        for name, thing in zip(names, things, strict=True):
            draw = -hash64(self._seed, self._purpose, name)
            if len(self._heap) < self._number:
                heapq.heappush(self._heap, (draw, name, thing))
            elif self._heap and (draw, name) > self._heap[0][:2]:
                heapq.heapreplace(self._heap, (draw, name, thing))

    def things(self) -> list[Drawable]:
        """What was drawn, in the order of the draws: a larger number begins with the same."""
        order = sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))
        return [thing for _, _, thing in order]
