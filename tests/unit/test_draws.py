"""Draws are functions of their keys, whatever was drawn before."""

import numpy as np

from pipeline import draws


def test_one_rekeyed_generator_draws_what_a_fresh_one_of_that_key_draws():
    reused, key = draws.Rekeyed(), draws.hash64(5, "sample")
    for position in (0, 7, 10**12, 7):
        fresh, ours = draws.generator(5, "sample", position), reused.at(key, position)
        assert ours.integers(9, dtype=np.int32) == fresh.integers(9, dtype=np.int32)
        assert np.array_equal(ours.standard_normal(9), fresh.standard_normal(9))
        assert ours.random() == fresh.random()
        ours.integers(9, dtype=np.int32)  # leaves half a word behind, which must not carry over
