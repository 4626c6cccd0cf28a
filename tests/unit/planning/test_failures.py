import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning import failures
from pipeline.planning.failures import INTERVALS_S, Cluster, Saving, advice, simulate

NEVER = Cluster(failures_per_worker_hour=1e-15)


def failing_every(seconds, restart_s=60.0):
    return Cluster(failures_per_worker_hour=3600 / seconds, restart_s=restart_s)


def test_the_published_rate():
    """Llama 3: one interruption in about three hours of the whole cluster."""
    whole = Cluster(workers=16_384)
    assert whole.between_failures_s == pytest.approx(54 * 86_400 / 419)
    assert Cluster(workers=2).between_failures_s == 8192 * whole.between_failures_s


def test_without_failures_only_checkpoints_cost():
    found = simulate(1000, 100, Saving(stop_s=5, write_s=20), NEVER, seed=0)
    assert (found.num_failures, found.repeated_s, found.restarting_s) == (0, 0, 0)
    assert found.saving_s == 9 * 5  # none at the very end
    assert found.wall_s == 1045


@pytest.mark.parametrize(
    ("moment", "stopped", "complete"),
    [
        (90, 0, 0),  # before the first checkpoint
        (103, 3, 0),  # while it is copied
        (124, 5, 0),  # while it is written
        (125, 5, 1),  # just complete
        (309, 10, 2),  # before the third one
    ],
)
def test_one_failure_by_hand(monkeypatch, moment, stopped, complete):
    moments = iter([moment, 1e9])

    class Draws:
        def __init__(self, seed):
            pass

        def expovariate(self, rate):
            return next(moments)

    monkeypatch.setattr(failures.random, "Random", Draws)
    found = simulate(1000, 100, Saving(stop_s=5, write_s=20), failing_every(1e4), seed=0)
    left = 1000 - 100 * complete
    assert found.num_failures == 1
    assert found.repeated_s == moment - stopped - 100 * complete
    assert found.saving_s == stopped + 5 * (math.ceil(left / 100) - 1)
    assert found.restarting_s == 60
    assert found.wall_s == moment + 60 + left + 5 * (math.ceil(left / 100) - 1)


@given(
    st.floats(10, 1e5), st.floats(1, 1e4), st.floats(0, 50), st.floats(0, 500), st.integers(0, 99)
)
def test_no_part_is_negative_and_work_is_done_once(work_s, interval_s, stop_s, write_s, seed):
    cluster = failing_every(max(3000.0, interval_s + write_s + stop_s))
    found = simulate(work_s, interval_s, Saving(stop_s, write_s), cluster, seed)
    assert min(found.repeated_s, found.saving_s, found.restarting_s) >= -1e-6
    assert found.work_s == work_s
    assert 0 < found.goodput <= 1


def test_the_same_seed_gives_the_same_run():
    told = [simulate(1e5, 300, Saving(5, 10), failing_every(5000), seed=seed) for seed in (1, 1, 2)]
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize(("stop_s", "between_s"), [(10, 20_000), (30, 10_000), (5, 100_000)])
def test_the_best_interval_is_that_of_young_and_daly(stop_s, between_s):
    found = advice(60 * between_s, Saving(stop_s, stop_s), failing_every(between_s), seed=0)
    formula = math.sqrt(2 * stop_s * between_s)
    assert found.formula_s == pytest.approx(formula)
    parts = found.goodput + found.repeated + found.saving + found.restarting
    assert parts == pytest.approx(1)
    step = INTERVALS_S[1] / INTERVALS_S[0]
    assert formula / step**2 < found.interval_s < formula * step**2
    nearest = min(found.by_interval, key=lambda interval_s: abs(math.log(interval_s / formula)))
    assert found.goodput - found.by_interval[nearest] < 0.003
    lost = stop_s / formula + formula / 2 / between_s + 60 / between_s  # Young's first order
    assert found.goodput == pytest.approx(1 - lost, abs=0.01)


def test_more_devices_fail_more_often_and_want_shorter_intervals():
    saving = Saving(stop_s=10, write_s=20)
    some, many = (
        advice(3e6 / size, saving, replace(failing_every(1e6), workers=size), seed=0)
        for size in (10, 100)
    )
    assert many.goodput < some.goodput
    assert many.interval_s < some.interval_s


def test_no_interval_is_shorter_than_a_checkpoint_takes():
    found = advice(1e5, Saving(stop_s=0.1, write_s=400), failing_every(4000), seed=0)
    assert min(found.by_interval) >= 400


def test_a_cluster_on_which_no_run_ends_is_told_as_such():
    spot = Cluster(workers=1024, failures_per_worker_hour=1 / 10)
    found = advice(3600.0 * 24, Saving(stop_s=1.0, write_s=20.0), spot, seed=0)
    assert found.goodput < 0.01
