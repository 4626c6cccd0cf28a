"""Draws are functions of their keys, whatever was drawn before."""

import numpy as np

from pipeline import draws


def test_a_stream_draws_what_a_fresh_generator_of_its_keys_draws():
    reused = draws.Streams(draws.hash64(5, "sample"))
    for position in (0, 7, 10**12, 7):
        fresh, ours = draws.generator(5, "sample", position), reused.at(position)
        assert ours.integers(9, dtype=np.int32) == fresh.integers(9, dtype=np.int32)
        assert np.array_equal(ours.standard_normal(9), fresh.standard_normal(9))
        assert ours.random() == fresh.random()
        ours.integers(9, dtype=np.int32)  # leaves half a word behind, which must not carry over
