"""Ranges of an order that are left out: what remains keeps its order, its lanes and its counts."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.sampler import Order
from pipeline.shards.skipping import without

COUNTS, LANES = [5, 0, 3, 7, 4], 2
NUM = 120


@given(
    edges=st.sets(st.integers(0, 40), min_size=2, max_size=6).filter(lambda s: len(s) % 2 == 0),
    num_read=st.integers(0, NUM),
)
def test_what_remains_is_the_whole_without_the_ranges(edges, num_read):
    bounds = [LANES * edge for edge in sorted(edges)]
    skipped = list(zip(bounds[::2], bounds[1::2], strict=True))
    whole = Order(COUNTS, seed=3, num_lanes=LANES).locate(np.arange(2 * NUM)).tolist()
    left = [
        place
        for position, place in enumerate(whole)
        if not any(first <= position < end for first, end in skipped)
    ]
    order = without(Order(COUNTS, seed=3, num_lanes=LANES), skipped)
    found = order.locate(np.arange(NUM)).tolist()
    assert found == left[:NUM]
    assert [whole.index(place) % LANES for place in found] == [n % LANES for n in range(NUM)]
    times = Counter(map(tuple, found[:num_read]))
    for shard, count in enumerate(COUNTS):
        for offset in range(count):
            assert order.times_read(shard, offset, num_read) == times[shard, offset]


def test_nothing_is_wrapped_where_nothing_is_left_out():
    order = Order(COUNTS, seed=3, num_lanes=LANES)
    assert without(order, ()) is order
