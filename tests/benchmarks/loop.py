"""The training loop against a bare PyTorch loop on the same model, batch size and workers.

The peer holds its batches in memory and does what no training can leave out: forward, loss,
backward, clipping, AdamW; on two workers under ``DistributedDataParallel``. Ours also loads, draws,
averages weights, watches for non-finite steps and spools metrics. Each worker has one thread;
where a core is free, ours reads pictures in a process (``decoders: 1``), as its README advises.
What is compared are steps after the first epoch, when ours has nearly all pictures in memory, too;
what the first one costs, which decodes them, is told beside it.
Needs a finished demo: ``python -m tests.benchmarks.loop --run runs/demo``.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import load_run
from pipeline.results import read_result, stage_places
from pipeline.run_file import RunFile
from pipeline.shards.loader import Loader
from pipeline.shards.sampler import Order
from pipeline.training import spool
from pipeline.training.batches import step_parts
from pipeline.training.device import fixed_arithmetic
from pipeline.training.launch import settings_for
from pipeline.training.loop import train_loop
from pipeline.training.settings import LoopSettings
from pipeline.training.tasks import Task
from tests.benchmarks.paired import compare, finish
from tests.gloo import Error, run_on

RUN_FILE = "jobs/configs/demo/run.yaml"
WARM_UP = 15
STEPS = 45
"""Compared steps of one side of a pair."""
AT_LEAST = 0.97


def main() -> int:
    """Compare the loop for the prior and the decoder of a finished run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/demo", help="output folder of a finished run")
    parser.add_argument("--stage", action="append", choices=["prior", "decoder"])
    parser.add_argument("--workers", action="append", type=int, choices=[1, 2])
    arguments = parser.parse_args()
    return finish(
        [
            _compare(arguments.run, stage, workers)
            for workers in arguments.workers or (1, 2)
            for stage in arguments.stage or ("prior", "decoder")
        ]
    )


def _compare(run_uri: str, stage: str, workers: int) -> dict:
    decoders = int(stage == "decoder" and workers < (os.cpu_count() or 1))
    settings = settings_of(run_uri, stage, 1)
    batch = settings.config.global_batch_size
    source = settings.data.source(settings.task, "train", cache_bytes=0)
    epoch = -(-sum(source.counts) // batch)
    settings = settings_of(run_uri, stage, epoch + WARM_UP + STEPS, decoders)
    ours, peer, first = [], [], []

    def run_ours() -> float:
        with tempfile.TemporaryDirectory(prefix="loop-") as folder:
            own = replace(settings, uri=folder)
            _on_workers(workers, _train, own)
            first.append(rate(own, WARM_UP, epoch))
            ours.append(rate(own, epoch + WARM_UP))
        return ours[-1]

    def run_peer() -> float:
        peer.append(_on_workers(workers, _bare_rate, settings))
        return peer[-1]

    found = compare(
        f"loop {stage}, {workers} worker{'s' * (workers > 1)}",
        run_ours,
        run_peer,
        unit="samples/s",
        at_least=AT_LEAST,
        peer_named={
            "command": "bare loop in tests/benchmarks/loop.py",
            "version": torch.__version__,
            "workers": workers,
            "decoders_of_ours": decoders,
            "global_batch_size": batch,
            "micro_batch_size": settings.config.micro_batch_size,
        },
    )
    bare = float(np.median(peer))
    return found | {
        "overhead_ms_per_step": 1000 * batch * (1 / float(np.median(ours)) - 1 / bare),
        "first_epoch": float(np.median(first)) / bare,
    }


def settings_of(run_uri: str, stage: str, steps: int, decoders: int = 0) -> LoopSettings:
    """The settings of a finished run's stage for so many steps, one thread a worker."""
    run = load_run(RunFile, RUN_FILE, [f"output_dir={run_uri}"])
    places = stage_places(run_uri)
    inputs = {name: read_result(places[name]) for name in ("curate", "clip", "embed", "select")}
    config = getattr(run, stage)
    execution = config.execution.model_copy(
        update={"num_workers": 0, "threads": 1, "checkpoint_every_s": 1e9, "decoders": decoders}
    )
    samples = steps * config.global_batch_size
    config = config.model_copy(update={"execution": execution, "samples": samples})
    settings = settings_for(config, inputs, run_uri, run.select.split)
    return replace(settings, num_moments=0)


def _on_workers(workers: int, work: Any, settings: LoopSettings) -> Any:
    """What the first worker returns; a single one works in this process."""
    if workers == 1:
        return work(0, 1, settings)
    first, *_ = found = run_on(workers, work, settings)
    assert not any(isinstance(each, Error) for each in found), found
    return first


def _train(rank: int, world: int, settings: LoopSettings) -> None:
    train_loop(settings, rank, world)


def rate(settings: LoopSettings, after: int, until: int | None = None) -> float:
    """Samples per second of a finished loop, by its records between two steps."""
    batch = settings.config.global_batch_size
    last = settings.config.samples if until is None else until * batch
    records = [r for r in spool.read(settings.uri) if "samples_per_s" in r]
    counted = [r for r in records if after * batch < r[spool.STEP] <= last]
    assert counted, f"no step is between {after} and {last // batch}"
    # Harmonic mean: windows hold equal numbers of steps.
    return len(counted) / sum(1 / r["samples_per_s"] for r in counted)


def _batches(settings: LoopSettings, rank: int, world: int) -> list:
    source = settings.data.source(settings.task, "train", cache_bytes=1 << 30)
    config = settings.config
    order = Order(source.counts, config.seed, config.num_lanes)
    loader = Loader(source, order, config.global_batch_size, config.micro_batch_size)
    steps = step_parts(settings.task, loader, config, 0, rank, world)
    return list(islice(steps, WARM_UP + STEPS))


class _Losses(nn.Module):
    """A model whose forward pass ends in its loss, as ``DistributedDataParallel`` wants it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self._task = task.build(), task

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._task.loss(self.model, batch)[0]


def _bare_rate(rank: int, world: int, settings: LoopSettings) -> float:
    config, steps = settings.config, _batches(settings, rank, world)
    with fixed_arithmetic(config.execution.threads):
        losses: nn.Module = _Losses(settings.task).train()
        if world > 1:
            losses = DistributedDataParallel(losses, gradient_as_bucket_view=True)
        optimizer = torch.optim.AdamW(losses.parameters(), lr=1e-4, fused=True)
        for number, parts in enumerate(steps):
            if number == WARM_UP:
                started = time.perf_counter()
            for part in parts:
                (losses(part.batch).sum() * world / config.global_batch_size).backward()
            torch.nn.utils.clip_grad_norm_(losses.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        elapsed = time.perf_counter() - started
    return STEPS * config.global_batch_size / elapsed


if __name__ == "__main__":
    sys.exit(main())
