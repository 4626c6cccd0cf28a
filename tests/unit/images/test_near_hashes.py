import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.near_hashes import NearHashes

HASHES = st.integers(0, 2**64 - 1)


@given(st.lists(HASHES, max_size=30), HASHES, st.integers(0, 15), st.randoms(use_true_random=False))
def test_exactly_those_within_the_distance_are_found(hashes, value, distance, rng: random.Random):
    for _ in range(10):  # and some that are near
        hashes.append(value ^ sum(1 << bit for bit in rng.sample(range(64), rng.randint(0, 18))))
    found = NearHashes(distance)
    for each in hashes:
        found.add(each)
    expected = [i for i, each in enumerate(hashes) if (each ^ value).bit_count() <= distance]
    assert found.near(value) == expected


def test_a_look_up_does_not_touch_all_hashes(monkeypatch):
    rng, near = random.Random(0), NearHashes(4)
    for _ in range(20_000):
        near.add(rng.getrandbits(64))
    touched = []

    class Counting(list):
        def __getitem__(self, index):
            touched.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(near, "_hashes", Counting(near._hashes))
    for _ in range(2_000):
        near.near(rng.getrandbits(64))
    expected = 20_000 * (2 * 22 / 2**21 + 23 / 2**22)  # two bands of 21 bits and one of 22
    assert len(touched) / 2_000 == pytest.approx(expected, rel=0.2)
