"""img2dataset's own processes and threads in an interpreter of their own, kept warm.

``python -m tests.benchmarks.crawl_peer`` reads one JSON object per line of its standard input:
``url_list, num, folder, processes, threads``, and answers with ``seconds, cpu_s, successes``. The
shards are img2dataset's (reader, downloader, resizer, writer); its processes are started and have
imported everything before the clock starts, and are not replaced after five shards.
"""

import json
import multiprocessing
import multiprocessing.pool
import os
import sys
import time
from typing import Any

import psutil

RESIZE_MODE, SIDE_PX, JPEG_QUALITY = "keep_ratio", 256, 95
SETTINGS = {
    "image_size": SIDE_PX,
    "resize_mode": RESIZE_MODE,
    "resize_only_if_bigger": True,
    "encode_quality": JPEG_QUALITY,
    "output_format": "webdataset",
    "compute_hash": "sha256",
    "extract_exif": False,
    "retries": 0,
    "timeout": 10,
}
"""As ``img2dataset`` takes them on its command line."""


def main() -> None:
    """Answer until the input ends."""
    told = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # img2dataset prints
    pool: multiprocessing.pool.Pool | None = None
    num_processes = 0
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["processes"] != num_processes:
            if pool is not None:
                pool.terminate()
            num_processes = asked["processes"]
            pool = multiprocessing.get_context("spawn").Pool(num_processes, _warm)
            pool.map(_wait, range(num_processes), chunksize=1)
        assert pool is not None
        print(json.dumps(_run(pool, asked)), file=told, flush=True)


def _warm() -> None:
    import img2dataset.downloader
    import img2dataset.resizer
    import img2dataset.writer  # noqa: F401


def _wait(_: int) -> None:
    time.sleep(0.5)  # so that every process takes one


def _run(pool: multiprocessing.pool.Pool, asked: dict[str, Any]) -> dict[str, Any]:
    downloader, reader = _parts(asked)
    cpu_s, started = _tree_cpu_s(), time.perf_counter()
    for finished, row in pool.imap_unordered(downloader, reader):
        assert finished, row
    seconds, cpu_s = time.perf_counter() - started, _tree_cpu_s() - cpu_s
    stats = [name for name in os.listdir(asked["folder"]) if name.endswith("_stats.json")]
    successes = 0
    for name in stats:
        with open(os.path.join(asked["folder"], name)) as file:
            successes += json.load(file)["successes"]
    return {"seconds": seconds, "cpu_s": cpu_s, "successes": successes}


def _parts(asked: dict[str, Any]) -> tuple[Any, Any]:
    """img2dataset's downloader and reader, put together as its ``download`` does."""
    from img2dataset.downloader import Downloader
    from img2dataset.reader import Reader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    per_shard = -(-asked["num"] // asked["processes"])
    folder, temporary = asked["folder"], os.path.join(asked["folder"], "_tmp")
    os.makedirs(temporary)
    reader = Reader(
        asked["url_list"],
        "parquet",
        "url",
        "caption",
        None,
        None,
        None,
        per_shard,
        set(),
        temporary,
    )
    downloader = Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=Resizer(SIDE_PX, RESIZE_MODE, True, encode_quality=JPEG_QUALITY),
        thread_count=asked["threads"],
        save_caption=True,
        extract_exif=SETTINGS["extract_exif"],
        output_folder=folder,
        column_list=reader.column_list,
        timeout=SETTINGS["timeout"],
        number_sample_per_shard=per_shard,
        oom_shard_count=5,
        compute_hash=SETTINGS["compute_hash"],
        verify_hash_type=None,
        encode_format="jpg",
        retries=SETTINGS["retries"],
        user_agent_token=None,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )
    return downloader, reader


def _tree_cpu_s() -> float:
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
