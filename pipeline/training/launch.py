"""Train: one stage's loop under Ray Train, watched from the driver.

Workers write checkpoints, metrics and pictures to the stage's folder and know neither MLflow nor
each other's failures; the driver follows that folder while Ray keeps the worker group alive. A
group that fails is started again and goes on from its newest complete checkpoint.
"""

import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer

from pipeline import checkpoints, errors, storage
from pipeline.config import semantic
from pipeline.errors import ConfigError, DataError, PipelineError, StorageError
from pipeline.models.presets import clip_config
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.runtime import require_cpus
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList, keep_everything, keep_list
from pipeline.shards.removals import NONE, Removals
from pipeline.shards.select_config import SplitConfig
from pipeline.training import reading, reading_record
from pipeline.training.batches import MixedPlace
from pipeline.training.codes import CODES, publish_codes
from pipeline.training.config import (
    AutoregressivePriorTaskConfig,
    MixtureSource,
    TrainConfig,
)
from pipeline.training.following import OnGrid, OnMetrics, followed
from pipeline.training.inputs import task_inputs
from pipeline.training.loop import SUMMARY, WEIGHTS, train_loop
from pipeline.training.notices import passed_on
from pipeline.training.process_group import NodesConfig
from pipeline.training.settings import LoopSettings
from pipeline.training.side import found_at_the_end
from pipeline.training.spool import work_intervals
from pipeline.training.starting import checkpoint_of, weights_of
from pipeline.training.tasks import build_task
from pipeline.training.workers import device, scaling

RAY_FOLDER = "ray"
STOPPED = "stopped.json"
"""What a worker found wrong, where it was one of our errors."""


def train(
    name: str,
    config: TrainConfig,
    inputs: Mapping[str, Result],
    uri: str,
    progress: Progress,
    *,
    split: SplitConfig,
    removed: Removals = NONE,
    on_metrics: OnMetrics,
    on_grid: OnGrid,
) -> StageOutput:
    """Train one model from finished stages; resumes where an earlier call stopped.

    Args:
        name: The stage, such as ``prior``.
        config: Its section.
        inputs: ``curate``, and of ``clip``, ``embed`` and ``select`` what the model stands on.
        uri: Folder of the stage.
        progress: Where to tell people how far it is.
        split: How clusters are split where there is no keep-list yet: CLIP's training.
        removed: What must not be read where there is no keep-list yet.
        on_metrics: Called with new metrics while training runs, in a thread of its own.
        on_grid: Called with new picture grids, likewise.

    Returns:
        Content with weights, sizes and final metrics; the loops' work intervals.
    """
    started = time.time()
    settings = settings_for(config, inputs, uri, split, removed)
    if config.warm_start is not None:
        settings = replace(settings, start_uri=_verified(*weights_of(config.warm_start, name)))
    if config.branch is not None and not _has_begun(uri):
        left = checkpoint_of(config.branch, uri, config.global_batch_size)
        settings = replace(settings, branch_uri=left)
    if config.execution.gpus_per_worker:
        settings = replace(settings, flops_per_sample=_flops_per_sample(config, inputs))
    fit(replace(settings, asked_s=started), name, progress, on_metrics, on_grid)
    intervals = [interval for interval in work_intervals(uri) if interval[0] >= started]
    return StageOutput(_content(uri), intervals)


def _flops_per_sample(config: TrainConfig, inputs: Mapping[str, Result]) -> float:
    """Operations of one sample, which takes seconds to count on shapes alone."""
    from pipeline.training.budget import budget

    clip = inputs.get("clip")
    if clip is None:
        return budget(config).training_flops
    uri = storage.join(clip.uri, clip.content["weights"]["name"])
    return budget(config, clip_config(uri)).training_flops


def _verified(uri: str, sha256: str) -> str:
    if storage.sha256_of(uri) != sha256:
        raise DataError(f"{uri}: not the weights that its manifest names; make them again")
    return uri


def _has_begun(uri: str) -> bool:
    """Whether a branch stands on its own, so that what it left may be gone."""
    return bool(checkpoints.completed(storage.join(uri, "checkpoints")))


def settings_for(
    config: TrainConfig,
    inputs: Mapping[str, Result],
    uri: str,
    split: SplitConfig,
    removed: Removals = NONE,
) -> LoopSettings:
    """What the workers are told, checked as far as the driver can.

    Raises:
        ConfigError: A view or an input is missing.
        DataError: An input is damaged or belongs to another data set.
    """
    curated = CuratedDataset(inputs["curate"])
    found_inputs = task_inputs(inputs, curated)
    task = build_task(config.task, found_inputs)
    places, hashes = [], {name: result.manifest_hash for name, result in inputs.items()}
    for number, source in enumerate(config.sources()):
        if source.path is None:
            keep = _keep_list(source, inputs, uri, split, removed)
            place = reading.own_place(inputs, keep)
        else:
            place, found = reading.other_place(source, inputs, needs_z=task.needs_embeddings)
            hashes |= {f"mixture.{number}.{name}": value for name, value in found.items()}
        reading.check(place, task.view_px, weighs=not task.whole_batch)
        places.append(place)
    data = places[0] if not config.mixture else MixedPlace(tuple(places), config.quotas())
    reading_record.write(uri, config, ((place.curated_uri, place.keep) for place in places))
    codes = {}
    if isinstance(config.task, AutoregressivePriorTaskConfig):
        codes = _codes(config, config.task, inputs, curated, places[0].keep, uri)
        found_inputs = replace(found_inputs, codes_uri=storage.join(uri, CODES))
        task = build_task(config.task, found_inputs)
    return LoopSettings(
        config=config,
        stage=config.task.type,
        task=task,
        data=data,
        uri=uri,
        published_config={**semantic(config), "inputs": hashes, **codes},
    )


def _keep_list(
    source: MixtureSource,
    inputs: Mapping[str, Result],
    uri: str,
    split: SplitConfig,
    removed: Removals,
) -> KeepList:
    if "select" in inputs:
        found = keep_list(inputs["select"], source.profile)
        found.verify()
        return found
    target = storage.join(uri, "keep", f"{source.profile}.parquet")
    return keep_everything(CuratedDataset(inputs["curate"]), split, target, removed)


def _codes(
    config: TrainConfig,
    task: AutoregressivePriorTaskConfig,
    inputs: Mapping[str, Result],
    curated: CuratedDataset,
    keep: KeepList,
    uri: str,
) -> dict[str, Any]:
    """What is known of the autoregressive prior's codes, whose tables are made here if missing."""
    if config.sources()[0].path is not None:
        raise ConfigError(
            "an autoregressive prior takes its codes from the first keep-list of its mixture, "
            "which is another run's; list one of this run first"
        )
    return {"codes": publish_codes(task, EmbeddedDataset(inputs["embed"], curated), keep, uri)}


def fit(
    settings: LoopSettings,
    name: str,
    progress: Progress,
    on_metrics: OnMetrics,
    on_grid: OnGrid,
) -> None:
    """Run the loop under Ray Train until the weights are published.

    Args:
        settings: The run.
        name: What people see beside the bar.
        progress: Where to tell people how far it is.
        on_metrics: Called with new metrics.
        on_grid: Called with new picture grids.

    Raises:
        ConfigError: The cluster has too few CPUs or GPUs.
        PipelineError: What a worker found wrong.
        KeyboardInterrupt: The user stopped it; checkpoints stay.
    """
    execution = settings.config.execution
    workers, remote = execution.min_workers or execution.num_workers, 0
    if execution.decode_on == "cluster" or execution.validate_on == "side":
        workers = execution.num_workers  # all that may come: they would take the others' CPUs
    if execution.decode_on == "cluster":
        remote = execution.decoders * max(1, workers)
    if execution.validate_on == "side":
        remote += execution.threads
    require_cpus(workers * execution.threads + remote, f"training of {name}")
    gpus = max(1, workers) * execution.gpus_per_worker + execution.validate_gpus
    require_cpus(gpus, f"training of {name}", "GPU")
    with followed(settings, name, progress, on_metrics, on_grid):
        # A call that died after its last write finds everything done.
        if not storage.exists(storage.join(settings.uri, SUMMARY)):
            _run_workers(settings)


def _run_workers(settings: LoopSettings) -> None:
    execution = settings.config.execution
    folder = storage.join(settings.uri, RAY_FOLDER)
    path, filesystem = storage.for_arrow(folder)
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"settings": settings},
        torch_config=NodesConfig(),
        scaling_config=scaling(execution),
        run_config=ray.train.RunConfig(
            # A new name each time: Ray would otherwise resume from a record of its own.
            name=f"{settings.stage}-{uuid.uuid4().hex[:8]}",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=execution.max_failures),
        ),
    )
    storage.remove_file(storage.join(settings.uri, STOPPED))
    try:
        with passed_on(settings.uri, execution.grace_s), _interrupt_as_keyboard_interrupt():
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) or DataError(
            f"training of {settings.stage} failed {execution.max_failures + 1} times: {error}; its "
            "checkpoints stay: run the same command again"
        ) from error
    finally:
        with suppress(OSError):  # what Ray writes there meanwhile may stay
            storage.remove_folder(folder)
    error = _stopped(settings.uri)
    if error is not None:
        raise error


def run_worker(told: dict[str, Any]) -> None:
    """The function of every Ray Train worker.

    An error of ours would come again after every restart, so it is left in the stage's folder
    and the worker ends; the others notice that it is gone, find it there and end too.
    """
    context, settings = ray.train.get_context(), told["settings"]
    settings = replace(settings, device=device(settings.config.execution))
    try:
        train_loop(settings, context.get_world_rank(), context.get_world_size())
    except PipelineError as error:
        _stop(settings.uri, error)
        if torch.distributed.is_initialized():  # not with num_workers 0
            torch.distributed.destroy_process_group()
    except RuntimeError:
        if _stopped(settings.uri) is None:
            raise


@contextmanager
def _interrupt_as_keyboard_interrupt() -> Iterator[None]:
    """Ray Train takes Ctrl-C over, ends its workers and then exits with success; undo the last."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _stop(uri: str, error: PipelineError) -> None:
    told = {"kind": type(error).__name__, "message": str(error)}
    try:
        storage.write_json(storage.join(uri, STOPPED), told)
    except StorageError:  # no space for a word of it: Ray carries the error, after its restarts
        raise error from None


def _stopped(uri: str) -> PipelineError | None:
    """The error of ours that ended the workers, or None."""
    path = storage.join(uri, STOPPED)
    if not storage.exists(path):
        return None
    found = storage.read_json(path)
    return getattr(errors, found["kind"])(found["message"])


def _cause(error: ray.train.TrainingFailedError) -> PipelineError | None:
    """The error of ours that Ray brings from a worker, or None."""
    failures = getattr(error, "worker_failures", {}).values()
    causes = [getattr(failure, "_base_exc", failure) for failure in failures]
    return next((cause for cause in causes if isinstance(cause, PipelineError)), None)


def _content(uri: str) -> dict[str, Any]:
    summary = storage.read_json(storage.join(uri, SUMMARY))
    summary["final"] = summary["final"] or found_at_the_end(uri, summary["samples"])
    weights = storage.join(uri, WEIGHTS)
    return {
        "weights": {
            "name": WEIGHTS,
            "sha256": storage.sha256_of(weights),
            "num_bytes": storage.size_of(weights),
        },
        **summary,
    }
