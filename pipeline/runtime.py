"""The process environment every job runs in, and the one place that opens Ray.

``prepare_environment`` must run before ray, torch, mlflow or img2dataset are imported; Ray's
workers get the same variables, also on a cluster that somebody else has started.
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from pydantic import Field

from pipeline.cluster_guard import refuse_open_cluster
from pipeline.config import StrictModel
from pipeline.credentials import submitted_variables
from pipeline.errors import BusyError, ConfigError, StalledError
from pipeline.placement import place

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # the hook slows every worker's start
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # 2 s by default, paid by every report and end
    "RAY_raylet_start_wait_time_s": "150",  # 30 s by default, too little beside other work
    "RAY_TRAIN_V2_ENABLED": "1",
    # One process less per training; SIGTERM is answered by the job itself.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # C++ notices would cut through the progress bars
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a notice about CUDA_VISIBLE_DEVICES
    "NO_ALBUMENTATIONS_UPDATE": "1",  # img2dataset's dependency phones home at import otherwise
    "WDS_SECURE": "1",  # webdataset would unpickle members of a tar otherwise
    "MLFLOW_ENABLE_TELEMETRY": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it deterministic products on GPUs are refused
    "GIT_PYTHON_REFRESH": "quiet",
}
OBJECT_STORE_BYTES = 256 << 20  # only manifests and embeddings travel through it


class RayConfig(StrictModel):
    """How much of this machine a local Ray may use; a given cluster is used as it is."""

    num_cpus: int | None = None
    """Logical CPUs of a Ray started here; the machine's own count by default, at least 2."""
    object_store_bytes: int = OBJECT_STORE_BYTES
    """Shared memory of a Ray started here."""
    allow_open_cluster: bool = False
    """Work on a cluster beyond this machine that asks for no token: anybody who reaches it may run
    anything on it."""
    stall_s: float = Field(default=45_000.0, gt=0)
    """Seconds without any ended task after which a Ray Data graph counts as hanging: more than a
    partition takes, which in a crawl may be ``host_deadline_s`` (43,200) and a little more."""
    tasks_on: dict[str, str] = Field(default_factory=dict)
    """Labels, as Ray knows them, of the nodes that crawl, curate, score and evaluate, such as
    ``{ray.io/node-group: cpu}``; all nodes without. A Ray started here has one node for all."""
    models_on: dict[str, str] = Field(default_factory=dict)
    """The same of the nodes that hold models: embedding, training, generation."""


def prepare_environment() -> None:
    """Set the variables above where the user has not; let workers import this project."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Open Ray for the length of a block: the submitted or named cluster, else a private local one.

    A local one gets a private temporary folder, and every process it started is gone afterwards,
    also after an interrupt.

    Raises:
        ConfigError: The cluster answers without a token, and the run file does not allow that; or
            it has no node with the labels that the run file names.
        BusyError: The machine is too busy to start Ray.
        StalledError: No task of the block's Ray Data graph ended for ``stall_s``.
    """
    import ray
    from ray.data.exceptions import ExecutionTimeoutError

    submitted = "RAY_ADDRESS" in os.environ or "RAY_JOB_ID" in os.environ
    # Unix socket paths end at 107 bytes, so the folder's name is short.
    folder = Path(tempfile.mkdtemp(prefix="up", dir=_short_temporary_folder()))
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        local = {
            "address": "local",
            "num_cpus": config.num_cpus or max(2, os.cpu_count() or 2),
            "object_store_memory": config.object_store_bytes,
            "include_dashboard": False,
            "_temp_dir": str(folder),
        }
        with _silent_stderr():
            _start({"runtime_env": _for_workers()} if submitted else local, quiet)
        if submitted:
            refuse_open_cluster(ray.get_runtime_context().gcs_address, config.allow_open_cluster)
        # Ray's C++ put its own SIGTERM handler over Python's: put that back.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        if submitted:
            place(tasks_on=config.tasks_on, models_on=config.models_on)
        _set_up_ray_data(config.stall_s)
        yield
    except ExecutionTimeoutError as error:
        raise StalledError(_stalled(error, config.stall_s)) from error
    finally:
        children = [] if submitted else psutil.Process().children(recursive=True)
        ray.shutdown()
        _end(_ray_processes(children, folder))
        shutil.rmtree(folder, ignore_errors=True)


def _start(cluster: Mapping[str, Any], quiet: Mapping[str, Any]) -> None:
    """Start Ray; its own patience of 30 s cannot be set, and a busy machine needs more."""
    import ray

    try:
        ray.init(**cluster, **quiet)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        raise BusyError(
            "Ray did not come up within its 30 s: this machine is too busy now; the same command "
            "goes on later"
        ) from error


def _for_workers() -> dict[str, dict[str, str]]:
    """The variables above for workers that do not descend from this process.

    Ray refuses what the submission itself has set.
    """
    given = submitted_variables(os.environ)
    ours = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    return {"env_vars": {name: value for name, value in ours.items() if name not in given}}


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ announces its log level on file descriptor 2; what fails is raised anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _short_temporary_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 40 else "/tmp"


def _stalled(error: Exception, stall_s: float) -> str:
    running = [line.strip(" -") for line in str(error).splitlines() if line.startswith("  - ")]
    where = ", ".join([*getattr(error, "__notes__", []), *running])
    return (
        f"no task ended for {stall_s:g} s ({where}): a worker hangs, or needs longer "
        "(execution.ray.stall_s); the same command goes on with what is missing"
    )


def _set_up_ray_data(stall_s: float) -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_no_progress_timeout_s = stall_s
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    for name in ("ray.data", "ray.train", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _ray_processes(children: list[psutil.Process], folder: Path) -> list[psutil.Process]:
    """Those of our former children that belong to the Ray session in ``folder`` and still live."""
    found = []
    for process in children:
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if str(folder) in command or command.startswith("ray::"):
            found.append(process)
    return found


def _end(processes: list[psutil.Process], grace_s: float = 3.0) -> None:
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        process.terminate()
    _, alive = psutil.wait_procs(alive, timeout=grace_s)
    for process in alive:
        process.kill()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM stops the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def require_cpus(wanted: int | float, purpose: str, kind: str = "CPU") -> None:
    """Refuse a graph that would wait for ever because it wants more CPUs than there are.

    Args:
        wanted: How many.
        purpose: Who wants them.
        kind: ``CPU``, or ``GPU``.

    Raises:
        ConfigError: The cluster has too few.
    """
    import ray

    available = ray.cluster_resources().get(kind, 0.0)
    if wanted > available:
        raise ConfigError(
            f"{purpose} wants {wanted:g} {kind}s, the Ray cluster has {available:g}; "
            "lower its workers or add nodes"
        )


def draining_nodes() -> set[str]:
    """Ids of the cluster's nodes that were told to go, as spot machines are before they vanish."""
    import ray

    # Ray has no public call for it outside of a training worker, where it would wait for all.
    from ray._private.state import state

    return set(state.get_draining_nodes()) if ray.is_initialized() else set()
