"""What a node does while it trains: CPUs, memory, disk, network and GPUs, over time.

The first worker of each node reads them in a thread and keeps them beside the metrics, in
``system/<node>/``, from where the driver takes them. MLflow's own monitor would speak to the server
from every node, past the outbox, and lose what it measured while the server was away.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.training.repeating import repeated
from pipeline.training.spool import STEP, Lines

SYSTEM = "system"
READ_EVERY_S = 10.0
AT_MS = "at_ms"
"""Unix time of a reading."""


class Meter:
    """Reads one node again and again; rates are those since the reading before."""

    def __init__(self) -> None:
        """Begin to count."""
        psutil.cpu_percent()
        self._gpus = list(_gpus())
        self._before = _counters()

    def read(self) -> dict[str, float]:
        """Shares from 0 to 1, bytes, bytes per second, watts; without what the node cannot tell."""
        memory, now = psutil.virtual_memory(), _counters()
        elapsed = max(1e-9, now["time_s"] - self._before["time_s"])
        rates = {
            f"{name}_per_s": (now[name] - self._before[name]) / elapsed
            for name in now.keys() & self._before.keys() - {"time_s"}
        }
        self._before = now
        found = {
            "cpu_share": psutil.cpu_percent() / 100,
            "memory_bytes": float(memory.total - memory.available),
            "memory_share": memory.percent / 100,
            "disk_share": psutil.disk_usage("/").percent / 100,
            **rates,
        }
        for index, read in enumerate(self._gpus):
            found |= {f"gpu_{index}_{name}": value for name, value in read().items()}
        return found


def _counters() -> dict[str, float]:
    network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
    found = {"time_s": time.monotonic()}
    if network is not None:
        found["network_in_bytes"] = float(network.bytes_recv)
        found["network_out_bytes"] = float(network.bytes_sent)
    if disk is not None:  # as in some containers
        found["disk_read_bytes"] = float(disk.read_bytes)
        found["disk_write_bytes"] = float(disk.write_bytes)
    return found


def _gpus() -> Iterator[Callable[[], dict[str, float]]]:
    """A reader per GPU of the node; none where NVIDIA's management library does not answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            yield _reader(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError:
        return


def _reader(nvml: Any, gpu: Any) -> Callable[[], dict[str, float]]:  # noqa: ANN401 - untyped C
    asked = {
        "share": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
        "memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    }

    def read() -> dict[str, float]:
        found = {}
        for name, ask in asked.items():
            try:
                found[name] = float(ask())
            except nvml.NVMLError:  # not of this card, or of a part of it
                continue
        return found

    return read


@contextmanager
def metered(uri: str, node: str, samples_seen: Callable[[], int]) -> Iterator[None]:
    """Read this node now and then while the block runs, and at its end.

    Args:
        uri: Folder of the stage.
        node: Name of the node.
        samples_seen: Where the training is.
    """
    lines, meter = Lines(storage.join(uri, SYSTEM, node)), Meter()

    def keep() -> None:
        found = {f"{SYSTEM}/{node}/{name}": value for name, value in meter.read().items()}
        lines.add({STEP: samples_seen(), AT_MS: int(time.time() * 1000), **found})
        with suppress(StorageError):  # what the training itself writes will tell
            lines.flush()

    try:
        with repeated(keep, READ_EVERY_S, "node"):
            yield
    finally:
        keep()
