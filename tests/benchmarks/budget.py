"""What a plan says of memory against what a training takes: the same step, rehearsed and real.

Each model of the demo trains two steps in a process of its own, on one thread, and its memory
(PSS, the peak of what is added to the imports) is set beside the peak that fake tensors gave.
Batches are larger than the demo's, so that the C library's own habits weigh little; large blocks
are handed back at once. ``python -m tests.benchmarks.budget``
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "jobs/configs/demo/run.yaml"
MICRO_BATCHES = {
    "clip": 128,
    "prior": 256,
    "decoder": 128,
    "upsampler_16_64": 128,
    "upsampler_64_256": 32,
}
"""Samples of one pass; a step has two."""
AT_MOST = 0.15
"""Relative difference that the plan may have."""


def main() -> int:
    """Compare every model, or measure one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MICRO_BATCHES), default=None)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(taken(options.models[0], options.checkpointing)))
        return 0
    rows = [compared(name, options.checkpointing) for name in options.models or MICRO_BATCHES]
    for row in rows:
        print(f"{row['model']:18} planned {row['planned']:>13,} B, taken {row['taken']:>13,} B")
    worst = max(abs(row["planned"] / row["taken"] - 1) for row in rows)
    is_ok = worst <= AT_MOST
    print(json.dumps({"benchmark": "budget", "rows": rows, "worst": worst, "ok": is_ok}))
    return 0 if is_ok else 1


def compared(name: str, checkpointing: bool = False) -> dict[str, Any]:
    """Planned and taken bytes of one model."""
    command = [sys.executable, "-m", "tests.benchmarks.budget", "--child", "--models", name]
    command += ["--checkpointing"] if checkpointing else []
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def taken(name: str, checkpointing: bool) -> dict[str, Any]:
    """Train two steps here; what that adds, and what the plan says."""
    import torch

    from pipeline.training.budget import Rehearsal, budget

    torch.set_num_threads(1)
    config, clip = _training(name, checkpointing)
    planned = budget(config, clip)
    small = config.model_copy(update={"micro_batch_size": 1, "global_batch_size": 2})
    Rehearsal(small, clip, 1).passes()  # libraries load their kernels
    before = _pss_bytes()
    peak = _Peak()
    rehearsal = Rehearsal(config, clip, 1)
    for _ in range(2):
        rehearsal.passes()
        rehearsal.update()
        rehearsal.optimizer.zero_grad(set_to_none=True)
    return {
        "model": name,
        "planned": planned.peak_bytes,
        "taken": peak.stop() - before,
        "micro_batch": planned.micro_batch,
    }


def _training(name: str, checkpointing: bool) -> Any:
    from pipeline.config import load_run
    from pipeline.run_file import RunFile

    run = load_run(RunFile, RUN)
    config = dict(run.training_stages())[name]
    micro = MICRO_BATCHES[name]
    task = config.task
    if hasattr(task, "caption_drop_prob"):  # a dropped caption is a short one
        task = task.model_copy(update={"caption_drop_prob": 0.0})
    execution = config.execution.model_copy(
        update={"activation_checkpointing": checkpointing, "num_workers": 0}
    )
    sizes = {"micro_batch_size": micro, "global_batch_size": 2 * micro}
    return config.model_copy(update={"task": task, "execution": execution, **sizes}), (
        run.clip.task.model
    )


def _pss_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel tells no PSS")


class _Peak:
    """The largest PSS, looked at all the time."""

    def __init__(self) -> None:
        self._most, self._ends = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ends.set()
        self._thread.join()
        return self._most

    def _run(self) -> None:
        while not self._ends.wait(0.002):
            self._most = max(self._most, _pss_bytes())


if __name__ == "__main__":
    sys.exit(main())
