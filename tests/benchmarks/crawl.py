"""The crawl against img2dataset 1.47: the same pictures from the same server, scaled to 256 px.

Ours is the stage ``curate`` as it is, with processes in place of Ray's workers: robots.txt of every
host, network guard, budgets, hashes, a decoder that can be killed, search for duplicates, tars and
manifests. Its addresses name 1,000 hosts, all led to the server. The peer fetches from the server's
own address: it resolves no name, and each picture is a connection of its own for it anyway. Both
find their processes started. The server, a process that answers after 20 ms, counts for neither.

Ours scales with ``downscale: bilinear`` and ``dct_margin: 1``, the peer with its ``area``; how far
the pixels are from those decoded in full is told, and so are rates with the peer's own pixels.

Ours also does what the peer does not: signatures for the search for duplicates (perceptual hash,
thumbnail, hash of the pixels) and views. Views are left out of the runs; what signatures cost is
measured beside each run and taken off its time, shared among the processes. Both are told.

``python -m tests.benchmarks.crawl`` takes ten to twenty minutes on two idle cores.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import multiprocessing.pool
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import steps
from pipeline.candidates import schema
from pipeline.candidates.config import UrlTableConfig
from pipeline.curation.config import CurateConfig
from pipeline.curation.curate import curate
from pipeline.images.config import DecodeConfig
from pipeline.images.decode import Picture, decode
from pipeline.images.decoder import shared
from pipeline.images.dedup import signature
from pipeline.progress import Progress
from pipeline.runtime import prepare_environment
from pipeline.shards.views import encode_view
from tests.benchmarks import crawl_web
from tests.benchmarks.crawl_peer import JPEG_QUALITY, RESIZE_MODE, SETTINGS, SIDE_PX
from tests.benchmarks.paired import compare, finish, verdict
from tests.local_curation import balanced_of, pair_of

NUM_HOSTS = 1_000
PROCESSES = (1, 2)
THREADS = (8, 16, 32, 64, 128)
FAST: dict[str, Any] = {"downscale": "bilinear", "dct_margin": 1.0}
LIKE_THE_PEER: dict[str, Any] = {"downscale": "area", "dct_margin": None}
AT_LEAST = 1.0
NUM_MEASURED_APART = 50
VIEWS_PX = (64, 256)


def main() -> int:
    """Measure in pairs; pictures per second, and per second of CPU time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=2_000, help="pictures per run (default 2,000)")
    arguments = parser.parse_args()
    prepare_environment()
    with tempfile.TemporaryDirectory(prefix="crawl-") as name:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        crawl_web.write_pictures(pictures, arguments.num)
        with (
            crawl_web.serving(pictures, arguments.num) as port,
            Ours(folder, arguments.num, port) as ours,
            Peer(folder, arguments.num, port) as peer,
        ):
            return finish(_compare(ours, peer, folder, arguments.num))


class Ours:
    """The stage ``curate`` over processes that are kept."""

    def __init__(self, folder: Path, num: int, port: int) -> None:
        """Make the pairs and start the processes."""
        self._folder, self._num = folder, num
        values = {
            "crawl": {
                "user_agent": "BenchmarkBot/1.0 (+https://bench.example/bot)",
                "execution": {"resolve": {"*.example": f"127.0.0.1:{port}"}},
            },
            "decode": {
                "pool_side_px": SIDE_PX,
                "resize_mode": RESIZE_MODE,
                "jpeg_quality": JPEG_QUALITY,
                **FAST,
            },
            "filters": {"min_side_px": 1},
            "shards": {"views_px": []},
        }
        self.config = CurateConfig.model_validate(values)
        self._processes = os.cpu_count() or 1
        pairs = [_pair(number) for number in range(num)]
        self._balanced = balanced_of(folder, pairs, self._processes, _host_number)
        self.kept = _decoded(folder / "pictures", self.config.decode)

    def __enter__(self) -> "Ours":
        """Start the processes and their decoders."""
        context = multiprocessing.get_context("spawn")
        self._pool = context.Pool(self._processes, prepare_environment)
        steps.map_partitions = self._map
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self._pool.terminate()
        self._pool.join()

    def _map(self, work: Any, rows: Sequence[dict]) -> Iterator[dict]:
        return self._pool.imap_unordered(work, rows, chunksize=1)

    def rates(self, **decode: Any) -> tuple[float, float]:
        """Pictures per second, and per second of CPU time of all processes but the server.

        Args:
            decode: Changes to how pictures are decoded.
        """
        config = self.config.decode.model_copy(update=decode)
        config = self.config.model_copy(update={"decode": config})
        self._pool.map(_ready, [config] * self._processes, chunksize=1)
        uri = self._folder / "curate"
        source = UrlTableConfig(type="url_table", path=str(self._folder))
        cpu_s, started = self._cpu_s(), time.perf_counter()
        output = curate(config, source, self._balanced, str(uri), Progress(io.StringIO()))
        seconds, cpu_s = time.perf_counter() - started, self._cpu_s() - cpu_s
        apart_s = self._num * _cpu_s_each(lambda: list(map(signature, self.kept)), self.kept)
        seconds, cpu_s = seconds - apart_s / self._processes, cpu_s - apart_s
        funnel = output.content["funnel"]
        if funnel["kept"] < 0.99 * self._num:
            raise AssertionError(f"pictures were lost: {funnel}")
        shutil.rmtree(uri)
        return self._num / seconds, self._num / cpu_s

    def _cpu_s(self) -> float:
        workers = [psutil.Process(worker.pid) for worker in self._pool._pool]
        whole = [psutil.Process(), *workers]
        whole += [child for worker in workers for child in worker.children(recursive=True)]
        times = [process.cpu_times() for process in whole]
        return sum(each.user + each.system for each in times)


def _ready(config: CurateConfig) -> None:
    """A worker with its decoder, as a stage that goes on has them."""
    shared(config.decode).decode(b"\xff\xd8\xff")
    time.sleep(0.5)  # so that every worker takes one


def _pair(number: int) -> dict:
    host = f"site{number % NUM_HOSTS:04d}.example"
    return pair_of(f"http://{host}/{number}.jpg", f"picture {number}")


def _host_number(pair: dict) -> int:
    return int((urlsplit(pair[schema.URL]).hostname or "").removeprefix("site").split(".")[0])


class Peer:
    """img2dataset in its own interpreter (``crawl_peer``)."""

    def __init__(self, folder: Path, num: int, port: int) -> None:
        """Write its list of addresses."""
        self._folder, self._num = folder, num
        self._list = folder / "urls.parquet"
        columns = {
            "url": [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(num)],
            "caption": [f"picture {number}" for number in range(num)],
        }
        pq.write_table(pa.table(columns), self._list)

    def __enter__(self) -> "Peer":
        """Start the interpreter."""
        command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.crawl_peer"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def rates(self, processes: int, threads: int) -> tuple[float, float]:
        """As ours."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder = self._folder / "peer"
        folder.mkdir()
        asked = {"url_list": str(self._list), "num": self._num, "folder": str(folder)}
        asked |= {"processes": processes, "threads": threads}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        if found["successes"] != self._num:
            raise AssertionError(f"the peer lost pictures: {found}")
        shutil.rmtree(folder)
        return self._num / found["seconds"], self._num / found["cpu_s"]

    def best(self) -> dict[str, tuple[int, int]]:
        """Processes and threads with the best rate, per second and per CPU second.

        The grid is measured once for a version of img2dataset and a machine, and kept.
        """
        known = _grid_file(self._num)
        if not known.exists():
            grid = {f"{p}x{t}": self.rates(p, t) for p in PROCESSES for t in THREADS}
            known.write_text(json.dumps(grid))
        grid = json.loads(known.read_text())
        _say(f"img2dataset, processes x threads ({known}):")
        for name, (per_s, per_cpu_s) in grid.items():
            _say(f"  {name:>6}: {per_s:8.1f} pictures/s, {per_cpu_s:8.1f} pictures/CPU-s")
        found = {}
        for place, kind in enumerate(("per_s", "per_cpu_s")):
            processes, threads = max(grid, key=lambda name: grid[name][place]).split("x")
            found[kind] = int(processes), int(threads)
        return found


def _grid_file(num: int) -> Path:
    host = hashlib.sha256(f"{platform.node()} {os.cpu_count()} {num}".encode()).hexdigest()[:12]
    name = f"unclip-crawl-grid-img2dataset-{version('img2dataset')}-{host}.json"
    return Path(tempfile.gettempdir()) / name


def _compare(ours: Ours, peer: Peer, folder: Path, num: int) -> list[dict[str, Any]]:
    """Per second and per CPU second, each against the peer's best settings for it."""
    best = peer.best()
    rates: list[tuple[float, float]] = []
    peers: list[tuple[float, float]] = []

    def run_ours() -> float:
        rates.append(ours.rates())
        return rates[-1][0]

    def run_peer() -> float:
        fast = peer.rates(*best["per_s"])
        differs = best["per_s"] != best["per_cpu_s"]
        sparing = peer.rates(*best["per_cpu_s"]) if differs else fast
        peers.append((fast[0], max(fast[1], sparing[1])))
        return fast[0]

    named = _named(folder / "pictures", num)
    also = _told_beside(ours, folder / "pictures")
    first = compare(
        "crawl",
        run_ours,
        run_peer,
        unit="pictures/s",
        at_least=AT_LEAST,
        peer_named=named | dict(zip(("processes", "threads"), best["per_s"], strict=True)),
        **also,
    )
    second = verdict(
        "crawl, CPU",
        [(a[1], b[1]) for a, b in zip(rates, peers, strict=True)],
        unit="pictures/CPU-s",
        at_least=AT_LEAST,
        peer_named=named | dict(zip(("processes", "threads"), best["per_cpu_s"], strict=True)),
        also=also,
    )
    return [first, second]


def _named(pictures: Path, num: int) -> dict[str, Any]:
    return {
        "command": "tests/benchmarks/crawl_peer.py",
        "version": f"img2dataset {version('img2dataset')}",
        "settings": SETTINGS,
        "pictures": num,
        "input_sha256": crawl_web.input_sha256(pictures, num),
    }


def _told_beside(ours: Ours, pictures: Path) -> dict[str, Any]:
    """What the ratios do not hold: ours with the peer's pixels, quality, signatures, views."""
    per_s, per_cpu_s = ours.rates(**LIKE_THE_PEER)
    full = _decoded(pictures, ours.config.decode.model_copy(update={"dct_margin": None}))
    psnr_db = [_psnr_db(one, other) for one, other in zip(ours.kept, full, strict=True)]
    views_s = _cpu_s_each(
        lambda: [encode_view(image, side) for image in ours.kept for side in VIEWS_PX], ours.kept
    )
    told = {
        "ours_decode": FAST,
        "psnr_db_least": min(psnr_db),
        "psnr_db_median": float(np.median(psnr_db)),
        "with_the_peers_pixels_per_s": per_s,
        "with_the_peers_pixels_per_cpu_s": per_cpu_s,
        "signature_cpu_ms": 1000
        * _cpu_s_each(lambda: [signature(image) for image in ours.kept], ours.kept),
        "views_cpu_ms": 1000 * views_s,
    }
    _say("beside: " + json.dumps(told))
    return told


def _decoded(pictures: Path, config: DecodeConfig) -> list[Image.Image]:
    """The first pictures as the pool keeps them."""
    names = sorted(pictures.iterdir(), key=lambda path: int(path.stem))[:NUM_MEASURED_APART]
    found = [decode(path.read_bytes(), config) for path in names]
    return [each.image for each in found if isinstance(each, Picture)]


def _psnr_db(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio; 99 for equal pictures."""
    error = np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
    return float(min(99.0, 10 * np.log10(255**2 / max(error, 1e-9))))


def _cpu_s_each(work: Callable[[], Any], over: Sequence[Any]) -> float:
    """CPU seconds of this thread per element."""
    started = time.thread_time()
    work()
    return (time.thread_time() - started) / len(over)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
