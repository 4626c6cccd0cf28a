"""However many workers and processes read, and wherever they begin: the same global order."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.loader import Loader, Sample, Share
from pipeline.shards.mixture import MixedOrder
from pipeline.shards.sampler import Order

COUNTS = [5, 0, 7, 3, 1, 9, 4, 6, 8, 2]


class Places:
    """A source whose samples say where they lie, and which notes what was read unannounced."""

    counts = COUNTS
    has_weights = False

    def __init__(self, order):
        self._order, self.announced, self.read = order, set(), set()

    def announce(self, shards):
        assert self.read <= self.announced | shards  # nobody reads what was not announced
        self.announced = set(shards)
        self.read = set()

    def sample(self, position, shard, offset):
        assert shard in self.announced
        self.read.add(shard)
        return Sample(position, f"{shard}/{offset}", None, (), (), None, ())

    def keys(self, shard, offsets=None):
        return [f"{shard}/{offset}" for offset in offsets]

    def order(self, seed, num_lanes):
        return self._order

    def held_out(self, seed, num_samples):
        raise AssertionError("a loader of training asks for no held-out samples")


ORDERS = {
    "one": lambda lanes: Order(COUNTS, 3, lanes),
    "mixed": lambda lanes: MixedOrder([COUNTS[:6], COUNTS[6:]], (1, 1), 3, lanes),
}
SHAPES = st.sampled_from([(8, 2, 4), (8, 2, 8), (12, 3, 8), (4, 4, 6), (6, 1, 6), (24, 6, 4)])
"""Global batch, micro-batch, lanes."""


def loader(kind, shape):
    order = ORDERS[kind](shape[2])
    return Loader(Places(order), order, *shape[:2])


def rows(reader, world, processes, first_step, num_steps, by_position):
    """Position and key of each step's rows, per worker in the order of its rows."""
    found = [[[] for _ in range(world)] for _ in range(num_steps)]
    for rank in range(world):
        for step in range(num_steps):
            whole = Share(rank, world, by_position=by_position)
            found[step][rank] = [None] * len(reader.positions(first_step + step, whole))
        for number in range(processes):
            share = Share(rank, world, number, processes, by_position)
            for step, samples in enumerate(islice(reader.read(share, first_step), num_steps)):
                places = reader.rows(first_step + step, share).tolist()
                for place, sample in zip(places, samples, strict=True):
                    assert found[step][rank][place] is None
                    found[step][rank][place] = (sample.position, sample.key)
    return found


@pytest.mark.parametrize("kind", ["one", "mixed"])
@settings(deadline=None, max_examples=40)
@given(
    shape=SHAPES,
    world=st.integers(1, 4),  # some divide no batch
    processes=st.integers(1, 3),
    first_step=st.integers(0, 10**9),
    by_position=st.booleans(),
)
def test_any_workers_and_processes_read_the_order_from_any_step_on(
    kind, shape, world, processes, first_step, by_position
):
    if kind == "mixed" and shape[2] > 6:
        shape = (8, 2, 4)  # the second source has four shards
    world = min(world, shape[0] // shape[1])
    found = rows(loader(kind, shape), world, processes, first_step, 6, by_position)
    order, batch = ORDERS[kind](shape[2]), shape[0]
    for step, of_step in enumerate(found):
        first = (first_step + step) * batch
        positions = np.arange(first, first + batch)
        expected = [f"{shard}/{offset}" for shard, offset in order.locate(positions).tolist()]
        together = sorted(row for worker in of_step for row in worker)
        assert together == list(zip(positions.tolist(), expected, strict=True))
        if by_position:
            assert all(worker == sorted(worker) for worker in of_step)


@settings(deadline=None, max_examples=20)
@given(shape=SHAPES, processes=st.integers(2, 4), step=st.integers(0, 1000))
def test_processes_of_a_worker_share_no_shard(shape, processes, step):
    reader, read = loader("one", shape), []
    for number in range(processes):
        samples = islice(reader.read(Share(0, 1, number, processes), step), 6)
        read.append({sample.key.split("/")[0] for each in samples for sample in each})
    assert sum(map(len, read)) == len(set().union(*read))


def test_keys_of_a_step_are_those_of_its_samples():
    reader = loader("one", (8, 2, 4))
    by_position = sorted(
        rows(reader, 2, 2, 11, 1, False)[0][0] + rows(reader, 2, 2, 11, 1, False)[0][1]
    )
    assert reader.keys(11) == [key for _, key in by_position]
