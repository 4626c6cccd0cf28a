"""The text side at growing sizes: time per row, and what the driver holds.

Synthetic captions run through every step from URL table to balanced pairs on a local Ray, against
500,000 queries. Ten times the rows may cost eleven times the time beyond start-up (the time of a
hundred rows), and the driver's memory must stay where it was. Then two loads of the driver alone:
adding up counts of 500,000 queries over 1,000 partitions, and a graph of empty partitions.

``python -m tests.benchmarks.text_scale`` takes about four minutes on two idle cores; ``--large``
adds ten million captions and makes the empty partitions 100,000, about nine minutes more.
"""

import argparse
import io
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from pipeline.candidates import schema, sources
from pipeline.candidates.config import UrlTableConfig
from pipeline.curation import limits
from pipeline.curation.balance import choose_pairs
from pipeline.curation.config import BalanceStageConfig
from pipeline.curation.match import Plan
from pipeline.partitions import map_partitions
from pipeline.progress import Progress
from pipeline.queries.query_list import QueryList, write
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.shards.writer import publish_table
from pipeline.steps import Steps
from tests.benchmarks import synthetic_pairs
from tests.benchmarks.paired import finish

NUM_QUERIES = 500_000
START_UP_ROWS = 100
LIMIT, NUM_BUCKETS, NUM_MERGED = 200, 16, 1_000
MERGE_LIMIT_S = 10.0
DRIVER_GROWTH_BYTES = 48 << 20
"""How much more the driver may hold with ten times the rows."""
CONFIG = {
    "mode": "cap",
    "per_query_limit": LIMIT,
    "seed": 0,
    "num_buckets": NUM_BUCKETS,
}


@dataclass
class Peak:
    """The largest proportional set size of this process while a block runs."""

    bytes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Sample until stopped."""
        process = psutil.Process()
        while not self.stop.wait(0.1):
            self.bytes = max(self.bytes, process.memory_full_info().pss)


def main() -> int:
    """Measure each size, then the two loads of the driver."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="up to ten million captions")
    parser.add_argument("--folder", default=None, help="where to work; a temporary one by default")
    arguments = parser.parse_args()
    sizes = [100_000, 1_000_000, 10_000_000][: 3 if arguments.large else 2]
    prepare_environment()
    with (
        tempfile.TemporaryDirectory(prefix="text-scale-", dir=arguments.folder) as name,
        ray_session(RayConfig()),
    ):
        folder = Path(name)
        _in_a_process(_write_queries, str(folder / "queries.parquet"))
        results = _sizes(folder, sizes)
        results.append(_count_merge(folder))
        results.append(_empty_partitions(100_000 if arguments.large else 10_000))
    return finish(results)


def _sizes(folder: Path, sizes: list[int]) -> list[dict]:
    """Each size against the one before it."""
    for _ in range(2):  # the first time workers start and build their matchers
        start_up_s = _run(folder, START_UP_ROWS)[0]
    found = [_run(folder, size) for size in sizes]
    rates = [size / (seconds - start_up_s) for size, (seconds, _) in zip(sizes, found, strict=True)]
    for size, rate, (seconds, peak) in zip(sizes, rates, found, strict=True):
        _say(f"{size:>10,} rows: {seconds:.1f} s, {rate:,.0f} rows/s, driver {peak >> 20} MiB")
    return [
        _result(
            f"text_scale {sizes[i]:,}",
            ours=rates[i],
            peer=rates[i - 1],
            unit="rows/s",
            at_least=10 / 11,
            ok=found[i][1] - found[i - 1][1] < DRIVER_GROWTH_BYTES,
            peer_is={"rows": sizes[i - 1], "num_queries": NUM_QUERIES, "cpus": os.cpu_count()},
            seconds=found[i][0],
            start_up_s=start_up_s,
            driver_peak_bytes=found[i][1],
            driver_peak_bytes_of_peer=found[i - 1][1],
        )
        for i in range(1, len(sizes))
    ]


def _run(folder: Path, num_rows: int) -> tuple[float, int]:
    """Seconds of all steps, and the driver's peak."""
    if not (folder / f"urls-{num_rows}").exists():
        _in_a_process(synthetic_pairs.write_pairs, folder / f"urls-{num_rows}", num_rows)
    with tempfile.TemporaryDirectory(dir=folder) as stage, _peak() as peak:
        started = time.perf_counter()
        plan = _plan(folder, f"urls-{num_rows}", stage)
        progress = Progress(io.StringIO())
        done = choose_pairs(plan, Steps(str(Path(stage) / "work"), progress), progress)
        seconds = time.perf_counter() - started
    dropped = sum(sum(each["dropped"].values()) for finished in done.values() for each in finished)
    kept = sum(finished["kept"] for finished in done["keep"])
    assert kept + dropped == num_rows
    return seconds, peak.bytes


def _plan(folder: Path, urls: str, stage: str) -> Plan:
    source = UrlTableConfig(type="url_table", path=str(folder / urls))
    return Plan(
        config=BalanceStageConfig.model_validate(CONFIG),
        source=source,
        parts=tuple(sources.plan(source)),
        queries_uri=str(folder / "queries.parquet"),
        profile="normalised",
        uri=stage,
    )


def _count_merge(folder: Path) -> dict:
    """Dense counts, the worst there are: every partition has every query."""
    with tempfile.TemporaryDirectory(dir=folder) as stage:
        plan = _plan(folder, f"urls-{START_UP_ROWS}", stage)
        plan = replace(plan, config=plan.config.model_copy(update={"num_buckets": NUM_MERGED}))
        counts = np.random.default_rng(0).geometric(0.05, NUM_QUERIES)
        columns = [np.arange(NUM_QUERIES, dtype=np.uint32), counts]
        table = pa.table(list(map(pa.array, columns)), schema=schema.QUERY_COUNTS)
        publish_table(plan.work("counts", 0), table, delta=True)
        for bucket in range(1, NUM_MERGED):
            os.link(plan.work("counts", 0), plan.work("counts", bucket))
        with _peak() as peak:
            started = time.perf_counter()
            limits.merge_counts(plan)
            seconds = time.perf_counter() - started
        assert (limits.query_counts(plan) == counts * NUM_MERGED).all()
    return _result(
        "count_merge",
        ours=NUM_MERGED / seconds,
        peer=NUM_MERGED / MERGE_LIMIT_S,
        unit="partitions/s",
        at_least=1.0,
        peer_is={"limit_s": MERGE_LIMIT_S, "queries": NUM_QUERIES},
        seconds=seconds,
        driver_peak_bytes=peak.bytes,
    )


def _empty_partitions(num: int) -> dict:
    """A graph whose tasks do nothing; told, without a bar."""
    with _peak() as peak:
        started = time.perf_counter()
        for _ in map_partitions(_nothing, [{"index": index} for index in range(num)]):
            pass
        seconds = time.perf_counter() - started
    return _result(
        f"{num:,} empty partitions",
        ours=num / seconds,
        peer=num / seconds,
        unit="partitions/s",
        at_least=1.0,
        peer_is={},
        seconds=seconds,
        driver_peak_bytes=peak.bytes,
    )


def _nothing(row: dict[str, Any]) -> dict[str, Any]:
    return row


def _result(
    benchmark: str, *, ours: float, peer: float, at_least: float, ok: bool = True, **more: Any
) -> dict:
    """One run each: the sizes are far apart and the runs long."""
    ratio = ours / peer
    named = {"benchmark": benchmark, "ours": ours, "peer": peer, "at_least": at_least}
    return named | {
        "ratio": ratio,
        "low90": ratio,
        "runs": 1,
        "ok": ok and ratio >= at_least,
        **more,
    }


def _write_queries(uri: str) -> None:
    queries = sorted(synthetic_pairs.queries(NUM_QUERIES))
    columns = [range(NUM_QUERIES), queries, ["made up"] * NUM_QUERIES, [1] * NUM_QUERIES]
    write(QueryList(pa.table(list(map(list, columns)), schema=schema.QUERY_LIST), {}), uri)


def _in_a_process(work: Any, *arguments: Any) -> None:
    """Make inputs elsewhere, so that they are not counted as the driver's."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
