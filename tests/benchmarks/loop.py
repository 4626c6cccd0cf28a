"""The training loop against a bare PyTorch loop on the same model, batch size and threads.

The peer holds its batches in memory and does what no training can leave out: forward, loss,
backward, clipping, AdamW. Ours also loads, draws, averages weights, watches for non-finite steps
and spools metrics. Needs a finished demo: ``python -m tests.benchmarks.loop --run runs/demo``.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

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
from tests.benchmarks.paired import compare, finish

RUN_FILE = "jobs/configs/demo/run.yaml"
STEPS = 60
"""Steps of one side of a pair; the first quarter is not counted."""
SKIPPED = STEPS // 4
AT_LEAST = 0.97


def main() -> int:
    """Compare the loop for the prior and the decoder of a finished run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/demo", help="output folder of a finished run")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    results = [_compare(arguments.run, stage, arguments.threads) for stage in ("prior", "decoder")]
    return finish(results)


def _compare(run_uri: str, stage: str, threads: int) -> dict:
    settings = settings_of(run_uri, stage, threads, STEPS)
    batches = _batches(settings)
    ours, peer = [], []

    def run_ours() -> float:
        ours.append(our_rate(settings))
        return ours[-1]

    def run_peer() -> float:
        peer.append(_bare_rate(settings, batches))
        return peer[-1]

    found = compare(
        f"loop {stage}",
        run_ours,
        run_peer,
        unit="samples/s",
        at_least=AT_LEAST,
        peer_named={
            "command": "bare loop in tests/benchmarks/loop.py",
            "version": torch.__version__,
            "threads": threads,
            "global_batch_size": settings.config.global_batch_size,
            "micro_batch_size": settings.config.micro_batch_size,
        },
    )
    step = settings.config.global_batch_size * 1000
    overhead = step / float(np.median(ours)) - step / float(np.median(peer))
    return found | {"overhead_ms_per_step": overhead}


def settings_of(run_uri: str, stage: str, threads: int, steps: int) -> LoopSettings:
    """The settings of a finished run's stage for so many steps in this process."""
    run = load_run(RunFile, RUN_FILE, [f"output_dir={run_uri}"])
    places = stage_places(run_uri)
    inputs = {name: read_result(places[name]) for name in ("curate", "clip", "embed", "select")}
    config = getattr(run, stage)
    execution = config.execution.model_copy(
        update={"num_workers": 0, "threads": threads, "checkpoint_every_s": 1e9}
    )
    samples = steps * config.global_batch_size
    config = config.model_copy(update={"execution": execution, "samples": samples})
    settings = settings_for(config, inputs, run_uri, run.select.split)
    return replace(settings, num_moments=0)


def our_rate(settings: LoopSettings) -> float:
    """Samples per second of the training loop."""
    with tempfile.TemporaryDirectory(prefix="loop-") as folder:
        own = replace(settings, uri=folder)
        train_loop(own)
        return steady_rate(own)


def steady_rate(settings: LoopSettings) -> float:
    """Samples per second of a finished loop, its first quarter left out."""
    records = [r for r in spool.read(settings.uri) if "samples_per_s" in r]
    counted = [r for r in records if r[spool.STEP] > settings.config.samples // 4]
    # Harmonic mean: windows hold equal numbers of steps.
    return len(counted) / sum(1 / r["samples_per_s"] for r in counted)


def _batches(settings: LoopSettings) -> list:
    source = settings.data.source(settings.task, "train", cache_bytes=1 << 30)
    config = settings.config
    order = Order(source.counts, config.seed, config.num_lanes)
    loader = Loader(source, order, config.global_batch_size, config.micro_batch_size)
    return list(islice(step_parts(settings.task, loader, config, 0, 0, 1), STEPS))


def _bare_rate(settings: LoopSettings, steps: list) -> float:
    config, task = settings.config, settings.task
    with fixed_arithmetic(config.execution.threads):
        model = task.build().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        for number, parts in enumerate(steps):
            if number == SKIPPED:
                started = time.perf_counter()
            for part in parts:
                losses, _ = task.loss(model, part.batch)
                (losses.sum() / config.global_batch_size).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        elapsed = time.perf_counter() - started
    return (len(steps) - SKIPPED) * config.global_batch_size / elapsed


if __name__ == "__main__":
    sys.exit(main())
