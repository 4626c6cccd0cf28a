"""Fréchet distance of 50,000 pictures' features: at most torchmetrics' time, memory flat.

Both sides get the same batches of 1,024 features and end with one number, which must agree; the CPU
time of one thread counts, so that other work on the machine does not. Memory: the largest resident
set of a process that reads 5,000 and of one that reads 50,000 pictures per set, batch by batch.

``python -m tests.benchmarks.frechet``
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import argparse
import hashlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
import torchmetrics
from torchmetrics.image.fid import FrechetInceptionDistance

from pipeline.evaluation.metrics import frechet_distance, moments
from tests.benchmarks.paired import compare, finish

NUM, DIM, BATCH = 50_000, 1024, 1000
FEW = 5_000
AT_LEAST = 1.0
MOST_GROWTH_MB = 32


class Features(torch.nn.Module):
    """Features that stand in the place of pictures."""

    num_features = DIM

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def batches(seed: int, num: int) -> Iterator[np.ndarray]:
    """Features whose neighbours go together, with a spectrum that falls, as networks give them."""
    scales = np.linspace(1, 0.05, DIM, dtype=np.float32)
    rng = np.random.default_rng(seed)
    for _ in range(num // BATCH):
        rows = rng.standard_normal((BATCH, DIM), np.float32) * scales
        yield rows + 0.5 * np.roll(rows, 1, axis=1) + np.float32(0.01 * seed)


def ours(sets: list[list[np.ndarray]]) -> float:
    return frechet_distance(*(moments(rows) for rows in sets))


def peer(sets: list[list[np.ndarray]]) -> float:
    metric = FrechetInceptionDistance(Features())
    for rows, is_real in zip(sets, (True, False), strict=True):
        for batch in rows:
            metric.update(torch.from_numpy(batch), real=is_real)
    return float(metric.compute())


def timed(side, sets, found: dict) -> float:
    """Distances per CPU-second."""
    started = time.process_time()
    found[side.__name__] = side(sets)
    return 1 / (time.process_time() - started)


def peak_mb(num: int) -> float:
    """Largest resident set of a process that measures so many pictures per set."""
    command = [sys.executable, "-m", "tests.benchmarks.frechet", "--peak", str(num)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=NUM, help="pictures per set")
    parser.add_argument("--peak", type=int, help="measure so many, print the peak in MB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        frechet_distance(*(moments(batches(seed, options.peak)) for seed in (1, 2)))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    sets = [list(batches(seed, options.num)) for seed in (1, 2)]
    values: dict[str, float] = {}
    peaks = {num: peak_mb(num) for num in (FEW, options.num)}
    result = compare(
        "frechet",
        lambda: timed(ours, sets, values),
        lambda: timed(peer, sets, values),
        unit="distances/CPU-s",
        at_least=AT_LEAST,
        peer_named={
            "name": "torchmetrics.image.fid.FrechetInceptionDistance",
            "version": torchmetrics.__version__,
            "input": f"2 x {options.num} x {DIM} float32 in batches of {BATCH}",
            "sha256": hashlib.sha256(b"".join(b.tobytes() for b in sets[0])).hexdigest(),
        },
        peak_mb={str(num): round(peak, 1) for num, peak in peaks.items()},
    )
    grown = peaks[options.num] - peaks[FEW]
    agree = abs(values["ours"] - values["peer"]) <= 1e-3 * values["peer"]
    result |= {"values": values, "ok": result["ok"] and agree and grown <= MOST_GROWTH_MB}
    return finish([result])


if __name__ == "__main__":
    sys.exit(main())
