"""Sources are interleaved in exact shares, in one order for any number of workers."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.shards.mixture import MixedOrder
from pipeline.shards.quotas import pattern, quotas
from pipeline.shards.sampler import Order, micro_batch_positions

COUNTS = [[5, 0, 7, 3, 9, 4, 6, 2], [4, 4, 4], [8, 1, 2, 6]]
SHARES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1.0], (1,)), ([0.7, 0.3], (7, 3)), ([2.0, 1.0], (2, 1)), ([0.1, 0.2, 0.1], (1, 2, 1))],
)
def test_weights_mean_what_is_written(weights, expected):
    assert quotas(weights) == expected


def served(shares):
    """How often each source was served before each position of two periods."""
    twice = np.asarray(pattern(shares) * 2)
    own = twice[:, None] == np.arange(len(shares))
    return np.concatenate([np.zeros((1, len(shares)), int), own.cumsum(axis=0)])


@settings(deadline=None)
@given(shares=SHARES)
def test_up_to_any_position_each_source_has_its_share_to_less_than_one_sample(shares):
    counts = served(shares)
    due = np.arange(len(counts))[:, None] * np.asarray(shares) / sum(shares)
    assert np.abs(counts - due).max() < 1
    assert counts[sum(shares)].tolist() == shares


@settings(deadline=None)
@given(shares=st.lists(st.integers(1, 40), min_size=2, max_size=2))
def test_of_two_sources_any_window_has_its_share_to_less_than_one_sample(shares):
    counts, total = served(shares), sum(shares)
    for length in range(1, total + 1):
        windows = counts[length:] - counts[:-length]
        assert np.abs(windows * total - length * np.asarray(shares)).max() < total


def order(shares=(2, 1, 1), num_lanes=8, seed=3):
    return MixedOrder(COUNTS[: len(shares)], shares, seed, num_lanes)


def places(order, positions):
    return [tuple(place) for place in order.locate(np.asarray(positions, np.int64)).tolist()]


def test_each_source_is_read_in_its_own_order_one_position_after_the_other():
    mixed, first = order(), [0, 8, 11]
    sources = np.asarray([0 if s < 8 else 1 if s < 11 else 2 for s, _ in places(mixed, range(240))])
    for source, lanes in enumerate([4, 2, 2]):
        rows = np.flatnonzero(sources == source)
        alone = places(Order(COUNTS[source], 3, lanes), range(len(rows)))
        expected = [(shard + first[source], offset) for shard, offset in alone]
        assert places(mixed, rows) == expected


def test_a_mixture_of_one_is_the_source_alone():
    assert places(order((1,), 7), range(99)) == places(Order(COUNTS[0], 3, 7), range(99))


def test_any_position_is_the_same_alone_and_in_any_batch():
    whole = places(order(), range(300))
    for position in (0, 17, 299, 3, 150):
        assert places(order(), [position]) == [whole[position]]
    shuffled = np.random.default_rng(0).permutation(300)
    assert places(order(), shuffled) == [whole[i] for i in shuffled]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_workers_own_lanes_and_so_shards_and_read_together_what_one_reads(world):
    batch, micro = 24, 6
    mixed, per_step = order(), batch // micro
    shards_of = []
    read = {}
    for rank in range(world):
        own = set()
        for step in range(20):
            for number in range(rank, per_step, world):
                positions = micro_batch_positions(step, number, batch, micro)
                found = places(mixed, positions)
                own |= {shard for shard, _ in found}
                read |= dict(zip(positions.tolist(), found, strict=True))
        shards_of.append(own)
    assert [read[i] for i in range(20 * batch)] == places(mixed, range(20 * batch))
    for one in range(world):
        for other in range(one):
            assert not shards_of[one] & shards_of[other]


@pytest.mark.parametrize("num_positions", [0, 1, 7, 64, 65, 333])
def test_times_read_counts_what_the_order_gives(num_positions):
    for one, counts in (
        (order(), [c for each in COUNTS for c in each]),
        (Order(COUNTS[0], 3, 4), COUNTS[0]),
    ):
        read = places(one, range(num_positions))
        for shard, count in enumerate(counts):
            for offset in range(count):
                expected = read.count((shard, offset))
                assert one.times_read(shard, offset, num_positions) == expected


def test_lanes_that_the_period_does_not_divide_are_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"num_lanes=8 is not a multiple of 10.* 7 : 3.*rounder"):
        order((7, 3))


def test_a_source_with_too_few_shards_is_named():
    with pytest.raises(ConfigError, match=r"source 1 of the mixture: num_lanes=4: 3 of 3 shards"):
        order((1, 1))


def test_late_positions_of_a_mixture_are_found_at_once():
    counts = [[10_000] * 6_000, [10_000] * 2_000]
    started = time.perf_counter()
    mixed = MixedOrder(counts, (3, 1), 0, 3_840)
    mixed.locate(np.arange(90_000_000, 90_000_064))
    assert time.perf_counter() - started < 4
