"""The image side at growing sizes: time per picture, and what driver and workers hold.

The stage ``curate`` on a local Ray, from a folder's pictures to shards and two views, over as many
partitions each time. Ten times the pictures may cost 10.5 times the time beyond start-up (the time
of a few pictures); the driver's memory is told, and the largest of a worker with its decoder.

``python -m tests.benchmarks.image_scale`` takes about four minutes on two idle cores.
"""

import argparse
import io
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipeline.candidates.config import FolderConfig
from pipeline.curation.config import CurateConfig
from pipeline.curation.curate import curate
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from tests.benchmarks.crawl_web import input_sha256, write_pictures
from tests.benchmarks.paired import finish, verdict
from tests.local_curation import balanced_of, pair

NUM, FACTOR, START_UP = 250, 10, 8
MOST = 10.5
"""So many times the time may ten times the pictures take."""
NUM_BUCKETS = 8
CONFIG = CurateConfig.model_validate(
    {
        "crawl": {"user_agent": "BenchmarkBot/1.0 (+https://bench.example/bot)"},
        "filters": {"min_side_px": 64},
        "shards": {"samples_per_shard": 500, "views_px": [64, 256]},
    }
)


@dataclass
class Peak:
    """The largest proportional set sizes while a block runs."""

    driver_bytes: int = 0
    worker_bytes: int = 0
    """Of one of Ray's workers with its children: a decoder."""
    stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until stopped."""
        driver = psutil.Process()
        while not self.stop.wait(0.5):
            self.driver_bytes = max(self.driver_bytes, _pss(driver))
            for process in driver.children(recursive=True):
                if _is_worker(process):
                    held = _pss(process) + sum(map(_pss, _children(process)))
                    self.worker_bytes = max(self.worker_bytes, held)


def main() -> int:
    """Measure both sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=NUM, help=f"pictures at first (default {NUM})")
    arguments = parser.parse_args()
    prepare_environment()
    with tempfile.TemporaryDirectory(prefix="image-scale-") as name:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        write_pictures(pictures, FACTOR * arguments.num)
        with ray_session(RayConfig()):
            return finish([_sizes(folder, arguments.num)])


def _sizes(folder: Path, num: int) -> dict:
    """Both sizes; the first of the three runs finds Ray's workers not started."""
    for _ in range(2):
        start_up_s, _ = _run(folder, START_UP)
    found = {size: _run(folder, size) for size in (num, FACTOR * num)}
    per_picture_s = {size: (found[size][0] - start_up_s) / size for size in found}
    for size, (seconds, peak) in found.items():
        _say(
            f"{size:>7,} pictures: {seconds:.1f} s, {1000 * per_picture_s[size]:.1f} ms each "
            f"beyond start-up, driver {peak.driver_bytes >> 20} MiB, "
            f"worker {peak.worker_bytes >> 20} MiB"
        )
    small, large = found[num], found[FACTOR * num]
    return verdict(
        f"image_scale {FACTOR * num:,}",
        [(1 / per_picture_s[FACTOR * num], 1 / per_picture_s[num])],
        unit="pictures/s",
        at_least=FACTOR / MOST,
        peer_named={
            "command": "the same stage on a tenth of the pictures",
            "pictures": num,
            "cpus": os.cpu_count(),
            "input_sha256": input_sha256(folder / "pictures", FACTOR * num),
        },
        also={
            "start_up_s": start_up_s,
            "seconds": large[0],
            "driver_peak_bytes": large[1].driver_bytes,
            "worker_peak_bytes": large[1].worker_bytes,
            "driver_peak_bytes_of_peer": small[1].driver_bytes,
            "worker_peak_bytes_of_peer": small[1].worker_bytes,
        },
    )


def _run(folder: Path, num: int) -> tuple[float, Peak]:
    """Seconds of the whole stage, and what was held."""
    stage = folder / "stage"
    pairs = [pair(f"{number}.jpg", f"picture {number}") for number in range(num)]
    balanced = balanced_of(stage, pairs, NUM_BUCKETS)
    source = FolderConfig(type="folder", path=str(folder / "pictures"))
    with _peak() as peak:
        started = time.perf_counter()
        uri = str(stage / "curate")
        output = curate(CONFIG, source, balanced, uri, Progress(io.StringIO()))
        seconds = time.perf_counter() - started
    funnel = output.content["funnel"]
    assert funnel["candidates"] == num
    assert funnel["kept"] > 0.95 * num
    shutil.rmtree(stage)
    return seconds, peak


@contextmanager
def _peak() -> Iterator[Peak]:
    peak = Peak()
    thread = threading.Thread(target=peak.watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.stop.set()
        thread.join()


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::")
    except psutil.Error:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:  # gone between two looks
        return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
