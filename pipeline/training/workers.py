"""The workers of a training: what they ask of Ray, where they compute, how fast they add up."""

import statistics
import time
import uuid
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer
from ray.util import placement_group, remove_placement_group

from pipeline import placement, storage
from pipeline.errors import ConfigError
from pipeline.placement import models_on
from pipeline.training.execution import TrainExecution
from pipeline.training.process_group import NodesConfig

ADDED_BYTES = 64 << 20
NUM_ROUNDS = 5
MEETING_S = 120
"""Until all workers must have met."""


def scaling(execution: TrainExecution) -> ray.train.ScalingConfig:
    """How many workers, with what, and on which nodes."""
    most = execution.num_workers
    return ray.train.ScalingConfig(
        num_workers=most if execution.min_workers is None else (execution.min_workers, most),
        use_gpu=bool(execution.gpus_per_worker),
        resources_per_worker=_resources(execution),
        label_selector=models_on(),
    )


def _resources(execution: TrainExecution) -> dict[str, float]:
    gpus = {"GPU": float(execution.gpus_per_worker)} if execution.gpus_per_worker else {}
    return {"CPU": float(execution.threads), **gpus}


def device(execution: TrainExecution) -> str:
    """Where this worker computes: its own GPU, which Ray has chosen, or the CPU."""
    if not execution.gpus_per_worker:
        return "cpu"
    found = ray.train.torch.get_device() if execution.num_workers else torch.device("cuda", 0)
    torch.cuda.set_device(found)
    return str(found)


def all_reduce_rate(execution: TrainExecution, folder: str) -> dict[str, Any]:
    """Let the workers of a training meet as they will, and add up 64 MiB a few times.

    Args:
        execution: The training's; more than one worker.
        folder: Of the nodes and this process together; what is left there is the caller's.

    Returns:
        ``workers``, ``backend`` and ``gigabytes_per_s``: bytes that pass through each worker's
        network, 2 (n - 1) / n of those added, per second of the median round.

    Raises:
        ConfigError: There is no room for all of them at once, nor comes any.
        ray.train.TrainingFailedError: They do not meet.
    """
    _require_room(execution)
    path, filesystem = storage.for_arrow(storage.join(folder, "ray"))
    told = storage.join(folder, f"all-reduce-{uuid.uuid4().hex[:8]}")
    TorchTrainer(
        _add_up,
        train_loop_config={"execution": execution, "told": told},
        torch_config=NodesConfig(timeout_s=MEETING_S),
        scaling_config=scaling(execution),
        run_config=ray.train.RunConfig(storage_path=path, storage_filesystem=filesystem),
    ).fit()
    return storage.read_json(told)


def _require_room(execution: TrainExecution) -> None:
    """As Ray Train asks for it; that would wait for ever."""
    most, each = execution.num_workers, _resources(execution)
    group = placement_group([each] * most, bundle_label_selector=[models_on() or {}] * most)
    try:
        if not group.wait(placement.NODE_S):
            raise ConfigError(
                f"{most} workers of {each} find no room at once on these nodes within "
                f"{placement.NODE_S:g} s"
            )
    finally:
        remove_placement_group(group)


def _add_up(settings: dict[str, Any]) -> None:
    where = device(settings["execution"])
    added, seconds = torch.zeros(ADDED_BYTES // 4, device=where), []
    for _ in range(1 + NUM_ROUNDS):  # the first opens the connections
        torch.distributed.barrier()
        started = time.perf_counter()
        torch.distributed.all_reduce(added)
        added[0].item()  # a GPU has ended when its result is here
        seconds.append(time.perf_counter() - started)
    workers = torch.distributed.get_world_size()
    passed = 2 * (workers - 1) / workers * ADDED_BYTES
    rate = passed / statistics.median(seconds[1:]) / 1e9
    if torch.distributed.get_rank() == 0:
        backend = torch.distributed.get_backend()
        found = {"workers": workers, "backend": backend, "gigabytes_per_s": round(rate, 3)}
        storage.write_json(settings["told"], found)
