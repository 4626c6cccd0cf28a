"""Kill a training at random moments, go on, and hold it against one that nobody touched.

Who dies is drawn too, as in `moments`: the job, a worker, or the node under them all. The same
command must then give the same loss curve, the same samples in the same order and the same
weights, bit for bit. Where it goes on with another number of workers, the order must be the same
and each loss within `CLOSE`: sums are rounded in another order.

``python -m tests.chaos.training <folder> <workers>`` is the training itself: 300 steps, one thread
a worker, a checkpoint every second, on a small data set in the folder.
"""

import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from pipeline.draws import hash64
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.training import spool
from tests.chaos.kills import ATTEMPTS, DEADLINE_S, Outcome
from tests.chaos.moments import PACES, POLL_S, Moment, draw_moments, kill_one
from tests.synthetic import RegressionTask, loop_settings, make_dataset, train_config
from tests.tiny_run import start_job

STEPS, BATCH = 300, 8
CLOSE = 1e-6
"""Largest difference of a step's loss between numbers of workers, float32."""
EXACT = ("loss", "validation_loss", "gradient_norm", "order")


@dataclass(frozen=True)
class TrainingKill:
    """A moment, and how many workers go on."""

    moment: Moment
    workers_after: int

    def __str__(self) -> str:
        """For people."""
        changed = "" if self.workers_after == 2 else f", goes on with {self.workers_after}"
        return f"{self.moment}{changed}"


def draw_training_kills(seed: int, num: int) -> list[TrainingKill]:
    """``num`` kills; every third goes on with another number of workers, 1 or 4."""
    others = random.Random(seed)
    return [
        TrainingKill(moment, others.choice([1, 4]) if number % 3 == 2 else 2)
        for number, moment in enumerate(draw_moments(seed, num))
    ]


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    points: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]
    seconds: float
    """From the first step to the end."""


def undisturbed_training(folder: Path) -> Trained:
    """Train once with two workers."""
    job = _start(folder, 2)
    began = _wait(job, folder / "run" / "workers.json")
    seconds = _wait(job, folder / "run" / "loop.json") - began
    _, err = job.communicate(timeout=DEADLINE_S)
    if job.returncode:
        raise RuntimeError(f"the undisturbed training ended with {job.returncode}: {err[-3000:]}")
    return _read(folder, seconds)


def strike_training(kill: TrainingKill, folder: Path, expected: Trained) -> Outcome:
    """Train, kill at the moment, then go on until the end."""
    for number, pace in enumerate(PACES):
        outcome = _strike(kill, pace, folder / str(number), expected)
        if outcome.struck:
            break
    return outcome


def _strike(kill: TrainingKill, pace: float, folder: Path, expected: Trained) -> Outcome:
    started = time.monotonic()
    job, began = _start(folder, 2), folder / "run" / "workers.json"
    _wait(job, began)
    if not began.exists():
        raise RuntimeError(f"the training ended before it began: {job.communicate()[1][-3000:]}")
    time.sleep(kill.moment.share * pace * expected.seconds)
    begun_ns = began.stat().st_mtime_ns
    kill_one(job.pid, kill.moment, "ray::RayTrainWorker")
    _, err = job.communicate(timeout=DEADLINE_S)
    code, calls = job.returncode, 1
    while code != 0 and calls < ATTEMPTS:
        again = _start(folder, kill.workers_after)
        _, err = again.communicate(timeout=DEADLINE_S)
        code, calls = again.returncode, calls + 1
    # A kill that came so late that nothing had to begin again proves nothing.
    struck = began.stat().st_mtime_ns != begun_ns
    difference = f"exit {code}: {err[-2000:]}" if code else ""
    if not difference:
        is_same = calls == 1 or kill.workers_after == 2
        difference = _difference(_read(folder, 0.0), expected, is_same)
    if not struck:
        difference += " nothing had to begin again"
    return Outcome(str(kill), struck, calls, difference.strip(), time.monotonic() - started)


def _difference(found: Trained, expected: Trained, is_same: bool) -> str:
    """Empty where both are one training."""
    if [p[spool.STEP] for p in found.points] != [p[spool.STEP] for p in expected.points]:
        return f"{len(found.points)} points of the curve instead of {len(expected.points)}"
    for mine, theirs in zip(found.points, expected.points, strict=True):
        for name in EXACT:
            a, b = mine.get(name), theirs.get(name)
            is_equal = a == b or (
                None not in (a, b) and not is_same and name != "order" and abs(a - b) <= CLOSE
            )
            if not is_equal:
                return f"{name} at {mine[spool.STEP]}: {a} instead of {b}"
    if is_same:
        changed = [
            name
            for name in expected.weights
            if not torch.equal(found.weights[name], expected.weights[name])
        ]
        return f"weights differ: {', '.join(changed)}" if changed else ""
    return ""


def _start(folder: Path, workers: int) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return start_job("tests.chaos.training", str(folder), str(workers))


def _wait(job: subprocess.Popen[str], path: Path) -> float:
    """Monotonic time at which the file appeared."""
    while job.poll() is None and not path.exists():
        time.sleep(POLL_S)
    return time.monotonic()


def _read(folder: Path, seconds: float) -> Trained:
    uri = folder / "run"
    return Trained(spool.read(str(uri)), load_file(uri / "weights.safetensors"), seconds)


@dataclass
class OrderedTask(RegressionTask):
    """A regression that tells, step by step, which sample stood where."""

    def prepare(self, sample, rng):
        """With a number that hangs on the sample and its position; their sums are exact."""
        number = np.float32(hash64(sample.key, sample.position) % 2**16)
        return {**super().prepare(sample, rng), "number": number}

    def loss(self, model, batch):
        """The regression's, at the pace of a real network."""
        time.sleep(0.02)
        losses, metrics = super().loss(model, batch)
        return losses, {**metrics, "order": batch["number"].mean()}


def train(folder: Path, workers: int) -> None:
    """Begin or go on."""
    from pipeline.training.launch import fit

    prepare_environment()
    execution = {"num_workers": workers, "threads": 1, "checkpoint_every_s": 1.0}
    config = train_config(
        samples=STEPS * BATCH, global_batch_size=BATCH, micro_batch_size=2, execution=execution
    )
    settings = loop_settings(
        make_dataset(folder / "data"), folder / "run", config=config, task=OrderedTask()
    )
    with ray_session(RayConfig(num_cpus=workers)):
        fit(settings, "test", Progress(), lambda _: None, lambda *_: None)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
