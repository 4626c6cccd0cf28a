"""Draws belong to positions, and batches are stacked by name."""

import numpy as np

from pipeline import draws
from pipeline.training.batches import PositionDraws


def test_position_draws_are_those_of_a_fresh_generator_whatever_was_drawn_before():
    reused = PositionDraws(5, "sample")
    for position in (0, 7, 10**12, 7):
        fresh, ours = draws.generator(5, "sample", position), reused.at(position)
        assert ours.integers(9, dtype=np.int32) == fresh.integers(9, dtype=np.int32)
        assert np.array_equal(ours.standard_normal(9), fresh.standard_normal(9))
        assert ours.random() == fresh.random()
        ours.integers(9, dtype=np.int32)  # leaves half a word behind, which must not carry over
