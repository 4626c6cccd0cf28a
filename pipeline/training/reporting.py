"""What a worker tells of its steps: the points of the loss curve, and who is slow."""

import socket
import statistics
import time

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline import gpus, storage
from pipeline.training.settings import LoopSettings
from pipeline.training.spool import Spool, work_intervals
from pipeline.training.stragglers import WORKERS

LOG_POINTS = 200
"""About so many points of the loss curve, and at least one every `LOG_EVERY_AT_MOST` steps."""
LOG_EVERY_AT_MOST = 50
SAVED_LENGTH = 64
"""Of the window in a checkpoint; padded, so that it is known before the first metric is."""


class Report:
    """Sums since the last point, and rank 0's spool."""

    def __init__(self, settings: LoopSettings, rank: int) -> None:
        """Nothing is counted yet; rank 0 begins a new file of points."""
        self._settings, self._rank = settings, rank
        self.spool = Spool(settings.uri) if rank == 0 else None
        self.metric_names: list[str] = []
        """Of the task, in the order of the totals."""
        self._window = torch.zeros(0, dtype=torch.float64, device=settings.device)
        self._peak_flops: float | None = None
        self._once: dict[str, float] = {}
        asked_s = settings.asked_s or time.time()
        # Of a group that starts again: since the one before told of itself for the last time.
        self._since_s: float | None = max(
            [asked_s, *(end for _, end in work_intervals(settings.uri))]
        )
        self._every = max(1, min(LOG_EVERY_AT_MOST, settings.num_steps // LOG_POINTS))
        self._begin()

    def _begin(self) -> None:
        self._window.zero_()
        self._started = time.monotonic()
        self._waited_s = 0.0
        self._own_s: list[list[float]] = []

    def introduce(self, world: int) -> str | None:
        """Write down on which machine each worker is; every worker calls it.

        Returns:
            Name of the machine, to the first of its workers alone.
        """
        own = socket.gethostname()
        machines = [own] * world
        if world > 1:
            dist.all_gather_object(machines, own)
        if self.spool is not None:
            storage.write_json(storage.join(self._settings.uri, WORKERS), machines)
        self._peak_flops = _peak_flops(self._settings, world)
        return own if machines.index(own) == self._rank else None

    def state(self) -> Tensor:
        """The sums, as a checkpoint holds them."""
        window = torch.zeros(SAVED_LENGTH, dtype=torch.float64)
        window[: len(self._window)] = self._window.cpu()
        return window

    def resume(self, state: Tensor) -> None:
        """Go on from such sums."""
        self._window = state.to(self._settings.device)

    def waited(self, seconds: float) -> None:
        """Count time in which there was nothing to compute."""
        self._waited_s += seconds

    def took(self, own_s: list[float]) -> None:
        """Count the seconds that each worker needed for its own part of a step."""
        self._own_s.append(own_s)

    def count(self, totals: Tensor, norm: Tensor, bad: Tensor, rate: float) -> None:
        """Add a step to the window: [steps, bad steps, rate, norm, loss, metrics…].

        Args:
            totals: Loss and metrics, summed over the global batch.
            norm: Of the whole gradient.
            bad: 1 where the step was not applied, else 0.
            rate: Learning rate.
        """
        good = 1.0 - bad
        values = torch.cat([norm.reshape(1), totals / self._settings.config.global_batch_size])
        values = torch.where(bad.bool(), torch.zeros_like(values), values)
        head = torch.stack([good, bad, torch.full_like(good, rate)])
        row = torch.cat([head, values]).to(torch.float64)
        if len(self._window) == 0:
            self._window = torch.zeros_like(row)
        self._window[: len(row)] += row

    def after(self, step: int) -> None:
        """Spool a point where one is due after ``step`` finished steps."""
        if self._since_s is not None:
            self._once = {"time_to_first_step_s": time.time() - self._since_s}
            self._since_s = None
        if step % self._every == 0 or step == self._settings.num_steps:
            if self.spool is not None:
                samples_seen = step * self._settings.config.global_batch_size
                self.spool.add(samples_seen, self._means() | self._stragglers() | self._once)
                self._once = {}
            self._begin()

    def add(self, samples_seen: int, values: dict[str, float]) -> None:
        """Spool other numbers, and publish all there are."""
        if self.spool is not None:
            self.spool.add(samples_seen, values)
        self.flush()

    def flush(self) -> None:
        """Publish all points; any thread may call it."""
        if self.spool is not None:
            self.spool.flush()

    def _means(self) -> dict[str, float]:
        good, bad, rate, *sums = self._window.tolist()
        elapsed = max(time.monotonic() - self._started, 1e-9)
        names = ["gradient_norm", "loss", *self.metric_names]
        means = {name: total / good for name, total in zip(names, sums, strict=False) if good}
        steps = good + bad
        samples_per_s = steps * self._settings.config.global_batch_size / elapsed
        if self._peak_flops and self._settings.flops_per_sample:
            # Model FLOPs utilisation: Chowdhery et al. 2022 (PaLM), App. B.
            means["mfu"] = samples_per_s * self._settings.flops_per_sample / self._peak_flops
        return means | {
            "learning_rate": rate / steps,
            "nonfinite_steps": bad,
            "samples_per_s": samples_per_s,
            "data_wait_share": self._waited_s / elapsed,
        }

    def _stragglers(self) -> dict[str, float]:
        if not self._own_s or len(self._own_s[0]) == 1:
            return {}
        means = [statistics.fmean(times) for times in zip(*self._own_s, strict=True)]
        return {
            "own_step_s_median": statistics.median_low(means),
            "own_step_s_slowest": max(means),
            "slowest_worker": means.index(max(means)),
        }


def _peak_flops(settings: LoopSettings, world: int) -> float | None:
    """Of all workers together, per second; None on CPUs and on GPUs whose peak nobody states."""
    if settings.device == "cpu":
        return None
    gpu = gpus.of_device(torch.cuda.get_device_name(settings.device))
    return None if gpu is None else world * gpu.peak_flops(settings.config.precision)
