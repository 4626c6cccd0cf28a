r"""Interruptions: how much of a run's time is work, by the time between its checkpoints.

Failures come independently, at a rate per worker; one stops all, what was done since the last
complete checkpoint is done again, and starting again takes its time. Checkpoints stop the training
for a copy and are complete some seconds later, as ours are written beside it.

With :math:`C` seconds per checkpoint and :math:`M` seconds between failures the best interval is
about :math:`\sqrt{2CM}` (Young 1974; Daly 2006, to first order).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pipeline.training.budget import Budget

Seconds = float | int
FAILURES_PER_WORKER_HOUR = 419 / (54 * 24 * 16_384)
"""Unexpected interruptions of a GPU's hour: 419 in 54 days on 16,384 H100 (Grattafiori et al. 2024,
The Llama 3 Herd of Models, §3.3.4)."""
MAX_FAILURES = 10_000
"""Of one simulated run, whose share of work is known by then; on some clusters none ever ends."""
NUM_FAILURES, MAX_RUNS = 1000, 1000
"""Simulated failures, and runs, that an average is of: whichever comes first; a single run where
hardly any of them would fail."""
INTERVALS_S = tuple(1.0 * round(30 * 2 ** (step / 2)) for step in range(19))
"""Intervals that are compared: 30 s to 4.3 hours, each 1.4 times the one before."""
SIZES = tuple(2**power for power in range(11))
"""Numbers of GPUs of the table: 1 to 1,024."""


@dataclass(frozen=True)
class Cluster:
    """Where a training runs, and how often it is interrupted."""

    workers: int = 1
    failures_per_worker_hour: float = FAILURES_PER_WORKER_HOUR
    restart_s: Seconds = 300.0
    """From a failure to the first new step: noticing it, new workers, loading. An assumption."""

    @property
    def between_failures_s(self) -> float:
        """Mean time between failures of any worker."""
        return 3600 / (self.failures_per_worker_hour * self.workers)


@dataclass(frozen=True)
class Saving:
    """What one checkpoint takes."""

    stop_s: Seconds
    """The training stands still while its state is copied to the host."""
    write_s: Seconds
    """From then until the checkpoint is complete; meanwhile the training goes on."""

    @classmethod
    def of(cls, taken: Budget, workers: int) -> "Saving":
        """Of a training, by assumed rates: 10 GB/s to the host, 0.25 GB/s per worker to storage.

        Parameters, both moments and the average are saved; each worker writes its share.
        """
        share = taken.parameters * 4 * 4 / workers
        return cls(stop_s=0.1 + share / 10e9, write_s=1.0 + share / 0.25e9)


@dataclass(frozen=True)
class Timeline:
    """How one run went, or as much of it as was simulated; seconds that add up to the whole."""

    work_s: Seconds
    repeated_s: Seconds
    """Done, lost and done again."""
    saving_s: Seconds
    restarting_s: Seconds
    num_failures: int

    @property
    def wall_s(self) -> float:
        """From start to end."""
        return self.work_s + self.repeated_s + self.saving_s + self.restarting_s

    @property
    def goodput(self) -> float:
        """Share of the time that was work which counted."""
        return self.work_s / self.wall_s


@dataclass(frozen=True)
class Advice:
    """What an interval between checkpoints is worth."""

    interval_s: Seconds
    """The best of those compared, work between two checkpoints."""
    goodput: float
    """Mean share of time that is work, at that interval."""
    by_interval: dict[float, float]
    """The same for every interval."""
    formula_s: Seconds
    """Young's and Daly's interval."""
    num_failures: float
    """Mean number of interruptions of the run, at that interval."""
    repeated: float
    """Mean share of time that work took which was lost."""
    saving: float
    """Mean share of time for which checkpoints stop the training."""
    restarting: float
    """Mean share of time between a failure and the first new step."""


def simulate(
    work_s: Seconds, interval_s: Seconds, saving: Saving, cluster: Cluster, seed: int
) -> Timeline:
    """One run from start to end.

    Args:
        work_s: Training time without interruptions and checkpoints.
        interval_s: Work between two checkpoints.
        saving: What a checkpoint takes.
        cluster: How often and how long it stands still.
        seed: Of the moments of failure; the same ones whatever the interval.
    """
    draws = random.Random(seed)
    cycle_s = interval_s + saving.stop_s
    done_s = repeated_s = saving_s = restarting_s = 0.0
    num_failures = 0
    while True:
        left_s = work_s - done_s
        num_saves = max(0, math.ceil(left_s / interval_s) - 1)  # none at the very end
        alive_s = draws.expovariate(1 / cluster.between_failures_s)
        starting_s = cluster.restart_s if num_failures else 0.0
        running_s = alive_s - starting_s
        if running_s >= left_s + num_saves * saving.stop_s:
            restarting_s += starting_s
            saving_s += num_saves * saving.stop_s
            return Timeline(work_s, repeated_s, saving_s, restarting_s, num_failures)
        num_failures += 1
        if num_failures == MAX_FAILURES:
            return Timeline(done_s, repeated_s, saving_s, restarting_s, num_failures)
        restarting_s += min(alive_s, starting_s)
        if running_s <= 0:
            continue
        stops = min(num_saves, int((running_s + saving.stop_s) / cycle_s))
        stopped_s = min(stops * saving.stop_s, max(0.0, running_s - stops * interval_s))
        complete = min(num_saves, max(0, int((running_s - saving.write_s) / cycle_s)))
        saving_s += stopped_s
        repeated_s += running_s - stopped_s - complete * interval_s
        done_s += complete * interval_s


def advice(work_s: Seconds, saving: Saving, cluster: Cluster, seed: int) -> Advice:
    """Compare all intervals on the same failures.

    An interval is at least as long as a checkpoint takes to be complete; if it fails before, the
    one before it counts.
    """
    expected = work_s / cluster.between_failures_s
    num_runs = min(MAX_RUNS, math.ceil(NUM_FAILURES / expected))
    seeds = range(seed, seed + (num_runs if num_runs * expected >= 1 else 1))
    shortest = min(max(saving.write_s, INTERVALS_S[0]), INTERVALS_S[-1])
    runs = {
        interval_s: [simulate(work_s, interval_s, saving, cluster, each) for each in seeds]
        for interval_s in INTERVALS_S
        if interval_s >= shortest
    }
    goodput = {x: fmean(run.goodput for run in found) for x, found in runs.items()}
    best = max(goodput, key=lambda interval_s: goodput[interval_s])
    return Advice(
        interval_s=best,
        goodput=goodput[best],
        by_interval=goodput,
        formula_s=math.sqrt(2 * saving.stop_s * cluster.between_failures_s),
        num_failures=fmean(run.num_failures for run in runs[best]),
        repeated=fmean(run.repeated_s / run.wall_s for run in runs[best]),
        saving=fmean(run.saving_s / run.wall_s for run in runs[best]),
        restarting=fmean(run.restarting_s / run.wall_s for run in runs[best]),
    )


def by_size(
    device_s: Seconds,
    taken: Budget,
    cluster: Cluster,
    seed: int,
    sizes: Sequence[int] = SIZES,
) -> dict[int, Advice]:
    """The same training on more and more GPUs, each as fast as alone; exchange is not modelled.

    Args:
        device_s: Training time on one GPU.
        taken: The training, for the size of its checkpoints.
        cluster: Rates of failure and of starting again.
        seed: Of the moments of failure.
        sizes: Numbers of GPUs.
    """
    return {
        size: advice(device_s / size, Saving.of(taken, size), replace(cluster, workers=size), seed)
        for size in sizes
    }
