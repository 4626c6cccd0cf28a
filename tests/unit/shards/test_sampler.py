"""The order is a pure function of counts, seed and position, whoever reads it."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.shards.sampler import Order, micro_batch_positions

GOLDEN = [(2, 3), (1, 1), (2, 2), (1, 0), (2, 0), (1, 0), (2, 1), (1, 1)]
COUNTS = [5, 0, 7, 3, 1, 9, 4, 6]


def places(order, positions):
    return [tuple(place) for place in order.locate(np.asarray(positions)).tolist()]


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=4, max_size=12),
    num_lanes=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_each_repeat_of_a_lane_visits_every_sample_of_its_shards_once(counts, num_lanes, seed):
    filled = [shard for shard, count in enumerate(counts) if count]
    if len(filled) < num_lanes:
        return
    order = Order(counts, seed, num_lanes)
    for lane in range(num_lanes):
        own = {(s, o) for s in filled[lane::num_lanes] for o in range(counts[s])}
        for repeat in range(2):
            first = repeat * len(own)
            positions = [lane + num_lanes * (first + index) for index in range(len(own))]
            visited = places(order, positions)
            assert len(visited) == len(own)
            assert set(visited) == own


def test_any_position_is_the_same_alone_in_a_batch_and_in_another_process_state():
    whole = places(Order(COUNTS, 3, 4), range(200))
    for position in (0, 17, 199, 3, 150):
        assert places(Order(COUNTS, 3, 4), [position]) == [whole[position]]
    shuffled = np.random.default_rng(0).permutation(200)
    assert places(Order(COUNTS, 3, 4), shuffled) == [whole[i] for i in shuffled]


def test_seed_and_repeat_change_the_order():
    first = places(Order([20, 20], 1, 2), range(40))
    assert first != places(Order([20, 20], 2, 2), range(40))
    assert first != places(Order([20, 20], 1, 2), range(40, 80))


def test_the_order_never_changes_between_versions():
    """A golden order: raising RESULT_VERSION is needed if this changes."""
    assert places(Order([3, 2, 4], 7, 2), range(8)) == GOLDEN


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_workers_together_read_the_same_positions_for_any_number_of_workers(world):
    batch, micro = 24, 6
    per_step = batch // micro
    for step in range(3):
        read = [
            position
            for rank in range(world)
            for number in range(rank, per_step, world)
            for position in micro_batch_positions(step, number, batch, micro).tolist()
        ]
        assert sorted(read) == list(range(step * batch, (step + 1) * batch))


def test_a_micro_batch_always_reads_the_same_lanes():
    lanes = [{int(p) % 8 for p in micro_batch_positions(step, 1, 12, 3)} for step in range(20)]
    assert set().union(*lanes) == {1, 5}


def test_more_lanes_than_filled_shards_are_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"num_lanes=8: 7 of 8 shards .* lower num_lanes"):
        Order(COUNTS, 0, 8)


def test_late_positions_of_a_hundred_million_samples_are_found_at_once():
    counts = [10_000] * 10_000
    started = time.perf_counter()
    order = Order(counts, 0, 3_840)
    order.locate(np.arange(90_000_000, 90_000_064))
    assert time.perf_counter() - started < 4
