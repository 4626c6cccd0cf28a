"""A reading of 100 million samples that begins at 90 % of its epoch: ``loader --resume``."""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.shards import keep_list
from pipeline.shards.keep_list import SCHEMA, KeepList, write_keep_list
from pipeline.shards.loader import Loader, Share
from pipeline.training.batches import DataPlace
from tests.benchmarks.loader_shards import ReadPictures
from tests.synthetic import publish, sample_key

NUM_SHARDS = 10_000
PER_SHARD = 10_000
NUM_LANES = 3_840
GLOBAL_BATCH, MICRO_BATCH = 2_048, 8
AT_MOST_S = 5.0
RUNS = 5


def measure() -> list[dict]:
    """Seconds to the first step's keys, for one worker of 256 and for one that is alone."""
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        started = time.perf_counter()
        place = _place(Path(folder))
        took = time.perf_counter() - started
        _say(f"keep-list of {NUM_SHARDS * PER_SHARD:,} samples written in {took:.0f} s")
        return [_result(place, world) for world in (256, 1)]


def _result(place: DataPlace, world: int) -> dict:
    seconds = [_first_keys(place, Share(0, world)) for _ in range(RUNS)]
    _say(f"resume, 1 worker of {world}: {', '.join(f'{s:.2f}' for s in seconds)} s")
    worst, median = max(seconds), float(np.median(seconds))
    return {
        "benchmark": f"loader resume, worker 1 of {world}",
        "ours": 1 / median,
        "peer": 1 / AT_MOST_S,
        "unit": "resumes/s",
        "ratio": AT_MOST_S / median,
        "low90": AT_MOST_S / worst,
        "at_least": 1.0,
        "runs": RUNS,
        "ok": worst <= AT_MOST_S,
        "peer_is": {"bound_s": AT_MOST_S, "samples": NUM_SHARDS * PER_SHARD, "lanes": NUM_LANES},
        "median_s": median,
    }


def _first_keys(place: DataPlace, share: Share) -> float:
    keep_list._footer.cache_clear()
    keep = KeepList(place.keep.uri, place.keep.entry)
    started = time.perf_counter()
    source = DataPlace(place.curated_uri, keep).source(ReadPictures(64), "train", cache_bytes=0)
    order = source.order(1, NUM_LANES)
    loader = Loader(source, order, GLOBAL_BATCH, MICRO_BATCH)
    step = NUM_SHARDS * PER_SHARD * 9 // 10 // GLOBAL_BATCH
    keys = loader.keys_of(loader.positions(step, share))
    assert len(keys) == len(set(keys)) or share.world == 1
    return time.perf_counter() - started


def _place(folder: Path) -> DataPlace:
    names = [f"{shard:05d}.tar" for shard in range(NUM_SHARDS)]
    uri = str(folder / "keep.parquet")
    rows = [sample_key(number) for number in range(PER_SHARD)]
    columns = {
        "key": pa.array(rows, pa.string()),
        "kept": pa.array(np.ones(PER_SHARD, bool)),
        "split": pa.array(["train"] * PER_SHARD, pa.string()),
        "drop_reason": pa.nulls(PER_SHARD, pa.string()),
        "similarity": pa.nulls(PER_SHARD, pa.float32()),
        "weight": pa.array(np.ones(PER_SHARD, np.float32)),
    }

    def table(name: str) -> pa.Table:
        shard = pa.array([name] * PER_SHARD, pa.string())
        return pa.table({"shard": shard, **columns}, schema=SCHEMA)

    entry = write_keep_list(uri, names, map(table, names))
    shards = [
        {
            "name": name,
            "num_samples": PER_SHARD,
            "num_bytes": 1,
            "sha256": "0" * 64,
            "parquet_sha256": "0" * 64,
        }
        for name in names
    ]
    content = {"shards": shards, "views": {"64": shards}, "funnel": {}}
    return DataPlace(publish(str(folder / "curate"), "curate", content).uri, KeepList(uri, entry))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
