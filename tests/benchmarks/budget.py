"""What a plan says of memory against what a training takes: the same step, rehearsed and real.

Each model of the demo trains two steps in a process of its own, on one thread, and its memory
(PSS, the peak of what is added to the imports) is set beside the peak that fake tensors gave.
Batches are larger than the demo's, so that the C library's own habits weigh little; large blocks
are handed back at once. With ``--cut`` a wider prior is cut over two processes (fsdp) instead.

``python -m tests.benchmarks.budget``
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
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
    parser.add_argument("--checkpointing", action="store_true", help="blocks keep inputs alone")
    parser.add_argument("--cut", action="store_true", help="a wide prior over two processes")
    parser.add_argument("--child", nargs=2, metavar=("RANK", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        rank, store = options.child
        print(json.dumps(taken(_training(options), int(rank), store)))
        return 0
    models = ["prior"] if options.cut else options.models or list(MICRO_BATCHES)
    rows = [
        {"model": name, **compared(name, checkpointing=options.checkpointing, cut=options.cut)}
        for name in models
    ]
    for row in rows:
        print(f"{row['model']:18} planned {row['planned']:>13,} B, taken {row['taken']:>13,} B")
    worst = max(abs(row["planned"] / row["taken"] - 1) for row in rows)
    is_ok = worst <= AT_MOST
    print(json.dumps({"benchmark": "budget", "rows": rows, "worst": worst, "ok": is_ok}))
    return 0 if is_ok else 1


def compared(name: str, *, checkpointing: bool = False, cut: bool = False) -> dict[str, int]:
    """Planned and taken bytes of one worker of a model's training."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    options = ["--checkpointing"] * checkpointing + ["--cut"] * cut
    with tempfile.TemporaryDirectory() as folder:
        children = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.benchmarks.budget", "--models", name, *options),
                    *("--child", str(rank), f"{folder}/store"),
                ],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(1 + cut)
        ]
        said = [child.communicate()[0] for child in children]
    return json.loads(said[0].splitlines()[-1])


def taken(training: tuple[Any, Any], rank: int, store: str) -> dict[str, int]:
    """Train two steps here; what that adds, and what the plan says."""
    import torch
    import torch.distributed as dist

    from pipeline.training.budget import Rehearsal, budget

    torch.set_num_threads(1)
    config, clip = training
    world = max(1, config.execution.num_workers)
    planned = budget(config, clip)
    small = config.model_copy(update={"micro_batch_size": 1, "global_batch_size": 2 * world})
    Rehearsal(small, clip, 1).passes()  # libraries load their kernels
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    before, peak = _pss_bytes(), _Peak()
    rehearsal = _cut_over(config, clip, rank, world) if world > 1 else Rehearsal(config, clip, 1)
    for _ in range(2):
        rehearsal.passes()
        rehearsal.update()
        rehearsal.optimizer.zero_grad(set_to_none=True)
    return {"planned": planned.peak_bytes, "taken": peak.stop() - before}


def _cut_over(config: Any, clip: Any, rank: int, world: int) -> Any:
    """The same step on several workers, laid out as the loop lays it out."""
    from pipeline.training.budget import Rehearsal
    from pipeline.training.ema import WeightAverage
    from pipeline.training.optim import adamw
    from pipeline.training.parallel import lay_out

    class Real(Rehearsal):
        def _lay_out(self, network: Any) -> None:
            self.layout = lay_out(network, config, "cpu", rank, world)
            self.optimizer = adamw(
                network, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
            )
            self.average = WeightAverage(network, config.ema_decay)

    return Real(config, clip, world)


def _training(options: argparse.Namespace) -> tuple[Any, Any]:
    from pipeline.config import load_run
    from pipeline.run_file import RunFile

    (name,) = options.models
    run = load_run(RunFile, RUN, ["prior.task.model.width=512"] if options.cut else [])
    config = dict(run.training_stages())[name]
    micro = 8 if options.cut else MICRO_BATCHES[name]
    task = config.task
    if hasattr(task, "caption_drop_prob"):  # a dropped caption is a short one
        task = task.model_copy(update={"caption_drop_prob": 0.0})
    ways = {"activation_checkpointing": options.checkpointing, "num_workers": 2 * options.cut}
    ways["strategy"] = "fsdp" if options.cut else "ddp"
    batches = {"micro_batch_size": micro, "global_batch_size": 2 * micro * (1 + options.cut)}
    execution = config.execution.model_copy(update=ways)
    changed = config.model_copy(update={"task": task, "execution": execution, **batches})
    return changed, run.clip.task.model


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
