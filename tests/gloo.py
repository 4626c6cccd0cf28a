"""Functions on several processes that form one gloo group, as training workers do."""

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_context = multiprocessing.get_context("forkserver")
# Imported once; an optimiser would import the second by itself.
_context.set_forkserver_preload(["pipeline.training.loop", "torch._dynamo", "tests.synthetic"])


def run_on(
    world: int,
    function: Callable[..., Any],
    *arguments: Any,
    backend: str = "gloo",
    timeout_s: float = 240,
) -> list:
    """``function(rank, world, *arguments)`` on every process; results, or an `Error`, by rank."""
    with tempfile.TemporaryDirectory(prefix="gloo-") as folder:
        processes = [
            _context.Process(target=_run, args=(rank, world, folder, backend, function, arguments))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout_s)
        alive = [process for process in processes if process.is_alive()]
        for process in alive:
            process.kill()
        assert not alive, f"{len(alive)} of {world} processes hang"
        return [_result(Path(folder, f"{rank}.pkl"), processes[rank]) for rank in range(world)]


class Error(str):
    """Kind and message of what a process raised, or how it died."""


def _result(path: Path, process: Any) -> Any:
    died = Error(f"exit code {process.exitcode}")
    return pickle.loads(path.read_bytes()) if path.exists() else died


def _run(
    rank: int, world: int, folder: str, backend: str, function: Callable, arguments: tuple
) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(backend, f"file://{folder}/store", rank=rank, world_size=world)
    try:
        result = function(rank, world, *arguments)
    except Exception as error:
        result = Error(f"{type(error).__name__}: {error}")
    Path(folder, f"{rank}.pkl").write_bytes(pickle.dumps(result))
    if isinstance(result, Error):
        os._exit(1)  # its group hangs in an exchange that never ends
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
