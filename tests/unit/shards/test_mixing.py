"""A batch's samples are alike hardly more often than a perfect shuffle would make them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.mixing import mixing
from pipeline.shards.sampler import Order


def shard_of(places):
    return places[:, 0]


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(30, 60), min_size=8, max_size=24),
    num_lanes=st.integers(2, 8),
    batch=st.integers(2, 24),
    first=st.integers(0, 40),
)
def test_samples_of_one_shard_meet_no_more_often_than_the_lanes_allow(
    counts, num_lanes, batch, first
):
    found = mixing(Order(counts, 1, num_lanes), shard_of, counts, batch, 10, first)
    # A lane gives a batch so many samples at most, all of one shard at worst.
    bound = (-(-batch // num_lanes) - 1) / (batch - 1)
    assert found.measured <= bound + 1e-12


def test_a_batch_no_larger_than_the_lanes_has_no_two_of_a_shard():
    assert mixing(Order([50] * 32, 1, 16), shard_of, [50] * 32, 16, 50).measured == 0


def test_hosts_of_one_shard_each_meet_less_often_than_in_a_perfect_shuffle():
    """Each host lies in one shard, as the crawl leaves it."""
    counts, hosts_of_shard = [400] * 64, 4

    def host_of(places):
        return places[:, 0] * hosts_of_shard + places[:, 1] % hosts_of_shard

    sizes = [100] * (64 * hosts_of_shard)
    found = mixing(Order(counts, 1, 32), host_of, sizes, 64, 200)
    assert found.shuffled == pytest.approx(1 / 256, rel=0.02)
    # Two samples of a lane per batch, of one host in one of four cases.
    assert found.measured == pytest.approx(0.25 / 63, rel=0.15)
    assert found.measured <= 1.2 * found.shuffled


def test_a_random_order_measures_as_a_perfect_shuffle():
    class Shuffled:
        num_lanes = 1

        def locate(self, positions):
            shards = np.random.default_rng(int(positions[0])).permutation(1000)[: len(positions)]
            return np.stack([shards // 50, shards % 50], axis=1)

        def times_read(self, shard, offset, num_positions):
            raise AssertionError("mixing asks for places alone")

    found = mixing(Shuffled(), shard_of, [50] * 20, 100, 200)
    assert found.measured == pytest.approx(found.shuffled, rel=0.03)
