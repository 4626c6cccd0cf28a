"""What ``jobs.preflight`` asks of a cluster before hours are spent on it.

Every node answers for itself: versions, clock, GPUs, and whether it reads what the driver wrote to
the output folder and the driver reads what it wrote. The workers of the training that has most of
them meet as they will, and add up.
"""

import importlib.metadata
import platform
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError, PipelineError
from pipeline.run_file import RunFile

PACKAGES = ("ray", "torch", "pyarrow", "numpy", "mlflow")
MAX_CLOCK_SKEW_S = 30.0
"""Object stores refuse requests that are older than minutes, logs cannot be read side by side."""
NODE_S = 300.0
Facts = dict[str, Any]


def check_cluster(run: RunFile, names: Sequence[str]) -> Iterator[Facts]:
    """One object per check: ``check``, ``ok``, what was found, and a remedy where it is not.

    Args:
        run: The run file; Ray is open.
        names: Stages whose GPUs and CPUs are asked for; all by default.
    """
    folder = storage.join(run.output_dir, f"{storage.TEMPORARY_MARK}preflight-{uuid.uuid4().hex}")
    word, resources = uuid.uuid4().hex, list(_resources(run, names))
    try:
        storage.write_bytes(storage.join(folder, "driver"), word.encode())
        told = _ask_every_node(folder)
        yield from _versions(told)
        yield from _clocks(told)
        yield from _storage(told, folder, word)
        yield from conditional_writes(folder)
        if all(each["ok"] for each in resources):  # workers would be waited for otherwise
            yield from _meeting(run, names, folder)
    except (OSError, PipelineError) as error:
        remedy = "output_dir must be a folder or bucket that may be written to"
        yield _check("storage", False, str(error), remedy)
    finally:
        storage.remove_folder(folder)
    yield from resources
    yield _tokens()


def _check(name: str, ok: bool, found: Any, remedy: str) -> Facts:  # noqa: ANN401 - JSON is any
    return {"check": name, "ok": ok, "found": found} | ({} if ok else {"remedy": remedy})


def node_facts(folder: str) -> Facts:
    """What a node says of itself; it reads the driver's word and writes its own."""
    name, read = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}", ""
    try:
        read = storage.read_bytes(storage.join(folder, "driver")).decode()
        storage.write_bytes(storage.join(folder, name), name.encode())
        problem = ""
    except (OSError, PipelineError) as error:
        problem = f"{type(error).__name__}: {error}"
    return {
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
        "unix_s": time.time(),
        "read": read,
        "wrote": name,
        "problem": problem,
    }


def _ask_every_node(folder: str) -> list[Facts]:
    """The answers of all nodes, the driver's first; ``unsure_s`` is half of how long one took."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    told = [node_facts(folder) | {"asked_s": time.time(), "unsure_s": 0.0}]
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ask = ray.remote(node_facts).options(num_cpus=0, scheduling_strategy=strategy)
        ray.get(ask.remote(folder), timeout=NODE_S)  # the first call starts a worker
        before = time.time()
        facts = ray.get(ask.remote(folder), timeout=NODE_S)
        after = time.time()
        times = {"asked_s": (before + after) / 2, "unsure_s": (after - before) / 2}
        told.append(facts | times)
    return told


def _versions(told: Sequence[Facts]) -> Iterator[Facts]:
    mine = told[0]["versions"]
    others = {f["host"]: f["versions"] for f in told if f["versions"] != mine}
    remedy = "run the same image, or the same lock, on every node"
    yield _check("versions", not others, {"driver": mine, "others": others}, remedy)


def _clocks(told: Sequence[Facts]) -> Iterator[Facts]:
    """A difference counts as far as it is larger than half of the time that the answer took."""
    skews = [(abs(f["unix_s"] - f["asked_s"]) - f["unsure_s"], f["host"]) for f in told]
    worst, host = max(skews)
    remedy = f"set the clock of {host}; at most {MAX_CLOCK_SKEW_S:g} s"
    yield _check("clocks", worst <= MAX_CLOCK_SKEW_S, {host: round(max(0.0, worst), 3)}, remedy)


def _storage(told: Sequence[Facts], folder: str, word: str) -> Iterator[Facts]:
    problems = [f"{f['host']}: {f['problem']}" for f in told if f["problem"]]
    problems += [f"{f['host']} read other bytes" for f in told if f["read"] not in ("", word)]
    names = set(storage.list_names(folder))
    unseen = [f["host"] for f in told if not f["problem"] and f["wrote"] not in names]
    problems += [f"{host} wrote what the driver does not see" for host in unseen]
    remedy = "every node must see output_dir at this place, as one folder, and may write to it"
    yield _check("storage", not problems, problems or f"{len(told) - 1} nodes", remedy)


def conditional_writes(folder: str) -> Iterator[Facts]:
    """Whether a store refuses to write over what somebody else wrote: the lease is as good as that.

    No fault of a store that does not: a run that starts twice there does its work twice.
    """
    if storage.is_local(folder):
        return
    uri, kept = storage.join(folder, "conditional"), 0
    storage.write_over(uri, b"first", None)
    for version in (None, "1" * 16):
        try:
            storage.write_over(uri, b"second", version)
        except FileExistsError:
            kept += 1
    found = "kept" if kept == 2 else "ignored: of two runs that begin at once both may go on"
    yield _check("conditional writes", True, found, "")


def wanted(run: RunFile) -> dict[str, dict[str, float]]:
    """CPUs and GPUs that each stage asks for at once, by its settings."""
    found: dict[str, dict[str, float]] = {}
    for name, config in run.training_stages():
        how = config.execution
        decoders = how.decoders if how.decode_on == "worker" else 0
        workers = max(1, how.num_workers)
        cpus = float(workers * (how.threads + decoders))
        found[name] = {"CPU": cpus, "GPU": float(workers * how.gpus_per_worker)}
    if run.embed is not None:
        how = run.embed.execution
        gpus = how.num_actors * how.gpus_per_actor
        found["embed"] = {"CPU": float(how.num_actors * how.cpus_per_actor), "GPU": gpus}
    if run.generate is not None:
        how = run.generate.execution
        gpus = how.num_actors * how.gpus_per_actor
        found["generate"] = {"CPU": float(how.num_actors * how.threads), "GPU": gpus}
    return found


def _resources(run: RunFile, names: Sequence[str]) -> Iterator[Facts]:
    import ray

    has = ray.cluster_resources()
    for stage, asked in wanted(run).items():
        if names and stage not in names:
            continue
        short = {kind: n for kind, n in asked.items() if n > has.get(kind, 0.0)}
        found = {"asked": asked, "there": {kind: has.get(kind, 0.0) for kind in asked}}
        remedy = f"add nodes, or lower the execution settings of {stage}"
        yield _check(f"resources of {stage}", not short, found, remedy)


def _meeting(run: RunFile, names: Sequence[str], folder: str) -> Iterator[Facts]:
    """How fast the workers of a training add up their gradients; nothing where none has several."""
    from ray.train import TrainingFailedError

    from pipeline.training.workers import all_reduce_rate

    asked = [(name, c.execution) for name, c in run.training_stages() if not names or name in names]
    name, execution = max(asked, key=lambda each: each[1].num_workers, default=("", None))
    if execution is None or execution.num_workers < 2:
        return
    remedy = (
        "workers must reach each other on all ports over the network of the nodes' Ray addresses; "
        "NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME names another"
    )
    try:
        ok, found = True, all_reduce_rate(execution, folder)
    except ConfigError as error:
        ok, found, remedy = False, str(error), "add nodes, or let each worker take less"
    except (TrainingFailedError, OSError) as error:
        ok, found = False, str(error)
    yield _check(f"all-reduce of {name}", ok, found, remedy)


def _tokens() -> Facts:
    import ray

    from pipeline.cluster_guard import answers_strangers

    address = ray.get_runtime_context().gcs_address
    remedy = "start the cluster with RAY_AUTH_MODE=token"
    answers = answers_strangers(address)
    return _check("tokens", not answers, f"{address} {'answers' if answers else 'asks'}", remedy)
