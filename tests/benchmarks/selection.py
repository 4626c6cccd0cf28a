"""Selection at scale: rows per second of thresholds and balance, and of semantic duplicates.

``thresholds`` decides on synthetic scores (similarity, a head, sides, queries by Zipf's law): two
bounds, a top share and a limit of samples per query. The bar is a million rows a second on two
cores; what splits and the keep-list itself take on top is told beside.

``duplicates`` goes from raw float16 embeddings of 512 dimensions on disk, as scoring keeps them at
hand, to the sorted table of pairs, out of core; the peer loads the same numbers and holds all rows
in memory as float32: FAISS k-means on a sample of the same size, its index for the assignment, and
a plain loop over the clusters with one matrix product each. Both use one core, as our tasks do of
which a node runs as many as it has cores, and CPU time counts, so that other work on the machine
does not. What a whole `score` takes, with the files of `embed` read and checked, is told beside.

``python -m tests.benchmarks.selection``; ten million rows by ``--score-rows 10000000 --rows
10000000``.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import steps, storage
from pipeline.memory import PeakMemory, tree_pss_bytes
from pipeline.progress import Progress
from pipeline.results import Result
from pipeline.selection import histograms
from pipeline.selection.columns import Columns
from pipeline.selection.config import ScoreConfig
from pipeline.selection.plan import ScorePlan
from pipeline.selection.score import score
from pipeline.selection.select import Selection
from pipeline.selection.semantic import SemanticPlan, find_pairs, num_buckets
from pipeline.shards import embedding_files, score_files
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.score_files import ScoredDataset
from pipeline.shards.select_config import ProfileConfig, SelectConfig
from pipeline.shards.writer import SAMPLE, publish_table
from tests.benchmarks.matching import peer_python
from tests.benchmarks.paired import TOLERANCE, compare, finish, lower_bound

PEER = "faiss-cpu==1.15.1"
PER_SHARD = 10_000
NUM_QUERIES = 50_000
AT_LEAST_ROWS_PER_S = 1e6
RUNS = 5
DIM = 512
FLOOR = 0.95
ITERATIONS = 10
ROWS_PER_CLUSTER = 1_000
SAMPLE_PER_CLUSTER = 256
DUPLICATE_SHARE = 0.05
SHA256 = "c" * 64
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def main() -> int:
    """Measure both and compare with their bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--score-rows", type=int, default=2_000_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=["thresholds", "duplicates"])
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read when numpy is imported
        command = [sys.executable, "-m", "tests.benchmarks.selection", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **ONE_THREAD})
    found = []
    with tempfile.TemporaryDirectory(prefix="selection-") as folder:
        if arguments.only != "duplicates":
            found.append(thresholds(Path(folder, "scores"), arguments.score_rows))
        if arguments.only != "thresholds":
            found.append(duplicates(Path(folder, "vectors"), arguments.rows))
    return finish(found)


def thresholds(folder: Path, num_rows: int) -> dict:
    """Rates of decisions alone, and of a whole keep-list."""
    columns = Columns(scored(folder, num_rows))
    profile = ProfileConfig.model_validate(
        {
            "top_share": 0.6,
            "min_side_px": 200,
            "bounds": {"aesthetic": {"min": 4.0}},
            "max_per_query": max(1, num_rows // NUM_QUERIES // 2),
        }
    )
    split = {"seed": 1, "validation_share": 0.01, "test_share": 0.01}
    config = SelectConfig.model_validate({"split": split, "profiles": {"p": profile}})
    decide_s, decide_cpu_s, whole_s, split_s, dropped = [], [], [], [], {}
    with PeakMemory() as peak:
        before = tree_pss_bytes()
        for run in range(RUNS):
            started = time.perf_counter()
            selection = Selection(config, columns, None)
            drawn, cpu_s = time.perf_counter(), time.process_time()
            selection.decide(profile)
            decided = time.perf_counter()
            decide_cpu_s.append(time.process_time() - cpu_s)
            entry = selection.write("p", profile, str(folder))
            written = time.perf_counter()
            dropped = entry["dropped"]
            split_s.append(drawn - started)
            decide_s.append(decided - drawn)
            whole_s.append(written - decided + drawn - started)
            _say(f"thresholds: run {run + 1}: {num_rows / decide_s[-1]:,.0f} rows/s decided")
        peak.mark()
    ratios = num_rows / np.array(decide_s) / AT_LEAST_ROWS_PER_S
    low90 = lower_bound(ratios)
    return {
        "benchmark": "thresholds and balance",
        "ours": float(np.median(num_rows / np.array(decide_s))),
        "peer": AT_LEAST_ROWS_PER_S,
        "unit": "rows/s",
        "ratio": float(np.median(ratios)),
        "low90": low90,
        "at_least": 1.0,
        "runs": RUNS,
        "ok": low90 >= 1.0 - TOLERANCE,
        "peer_is": {"command": "none: the bar itself"},
        "num_rows": num_rows,
        "rows_per_cpu_s": num_rows / float(np.median(decide_cpu_s)),
        "with_splits_and_keep_list_rows_per_s": num_rows / float(np.median(whole_s)),
        "splits_rows_per_s": num_rows / float(np.median(split_s)),
        "dropped": dropped,
        "peak_pss_bytes": peak.peak_bytes,
        "of_it_before_bytes": before,
    }


def scored(folder: Path, num_rows: int) -> ScoredDataset:
    """Score tables of a made-up data set, with its histograms."""
    entries, values = [], []
    for shard, first in enumerate(range(0, num_rows, PER_SHARD)):
        num = min(PER_SHARD, num_rows - first)
        rng = np.random.default_rng(shard)
        keys = _keys(first, num)
        lengths = rng.integers(0, 5, num)
        drawn = rng.random(int(lengths.sum()))
        queries = np.minimum(NUM_QUERIES**drawn, NUM_QUERIES - 1).astype(np.uint32)
        bounds = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        similarity = rng.normal(0.25, 0.06, num).astype(np.float32)
        columns = {
            "key": keys,
            "cluster": keys,
            "url": pc.binary_join_element_wise("https://a.example/", keys, ".jpg", ""),
            "side_px": pa.array(rng.integers(100, 1024, num).astype(np.int32)),
            "similarity": similarity,
            "queries": pa.ListArray.from_arrays(bounds, pa.array(queries)),
            "aesthetic": rng.normal(5, 1, num).astype(np.float32),
            "overlap_set": pa.nulls(num, pa.string()),
            "overlap_cosine": pa.nulls(num, pa.float32()),
            "overlap_bits": pa.nulls(num, pa.int16()),
        }
        table = pa.table(columns, schema=score_files.schema(["aesthetic"]))
        name = f"scores/{shard:05d}.parquet"
        sha256 = publish_table(storage.join(str(folder), name), table)
        entry = {"name": name, "sha256": sha256, "num_samples": num, "shard_sha256": SHA256}
        entries.append({**entry, "shard": f"{shard:05d}.tar"})
        values.append(similarity)
    histogram = histograms.Histogram(histograms.extent(np.concatenate(values)))
    for part in values:
        histogram.add(part)
    content = {
        "scores": entries,
        "columns": ["aesthetic"],
        "histograms": {"similarity": histogram.as_json()},
        "semantic": None,
    }
    shards = [{"name": each["shard"], "sha256": SHA256} for each in entries]
    return ScoredDataset(
        _result(folder, content), CuratedDataset(_result(folder, {"shards": shards}))
    )


def duplicates(folder: Path, num_rows: int) -> dict:
    """Pairs of both sides over the same embeddings."""
    z_img, planted = vectors(num_rows)
    folder.mkdir(parents=True)
    np.save(folder / "vectors.npy", z_img)
    num_clusters = max(1, num_rows // ROWS_PER_CLUSTER)
    settings = {"clusters": num_clusters, "iterations": ITERATIONS, "floor": FLOOR}
    settings |= {"sample_per_cluster": SAMPLE_PER_CLUSTER}
    (folder / "settings.json").write_text(json.dumps(settings))
    inputs = _data_set(folder, z_img)
    input_sha256 = hashlib.sha256(z_img.tobytes()).hexdigest()
    del z_img
    steps.map_partitions = map  # in this process: no start of workers on either side
    ours, peer = Ours(folder, inputs, num_rows, num_clusters), Peer(folder, num_rows)
    result = compare(
        "semantic duplicates",
        ours.rate,
        peer.rate,
        unit="rows/CPU-s",
        at_least=1.0,
        peer_named={
            "command": "tests/benchmarks/selection_peer.py",
            "version": PEER,
            **settings,
            "input_sha256": input_sha256,
        },
        num_rows=num_rows,
    )
    return result | {
        "recall": recall(ours.pairs(), planted),
        "peer_recall": recall(peer.close(), planted),
        "whole_score_rows_per_cpu_s": ours.score_rate,
        "memory_bytes": max(ours.peaks),
        "peer_rss_bytes": peer.told["rss"],
    }


class Ours:
    """The search, after a first run of the whole stage."""

    def __init__(
        self, folder: Path, inputs: dict[str, Result], num_rows: int, num_clusters: int
    ) -> None:
        """Score once, and keep the working files."""
        semantic = {"floor": FLOOR, "num_clusters": num_clusters, "seed": 1}
        semantic |= {"iterations": ITERATIONS, "sample_rows": SAMPLE_PER_CLUSTER * num_clusters}
        execution = {"keep_working_files": True}
        config = ScoreConfig.model_validate({"semantic": semantic, "execution": execution})
        assert config.semantic is not None
        self._num_rows, self._config = num_rows, config.semantic
        self._plan = ScorePlan(config, inputs["curate"], inputs["embed"], None, str(folder / "run"))
        self._progress = Progress(io.StringIO())
        started = time.process_time()
        self._output = score(config, inputs, self._plan.uri, self._progress)
        self.score_rate = num_rows / (time.process_time() - started)
        self.peaks: list[int] = []

    def rate(self) -> float:
        """Search again, from the embeddings at hand."""
        buckets = num_buckets(self._plan.counts, DIM, self._config)
        storage.remove_folder(SemanticPlan(self._plan, self._config, buckets).folder)
        with PeakMemory() as peak:
            before = tree_pss_bytes()
            started = time.process_time()
            found, _ = find_pairs(self._plan, self._config, self._progress)
            elapsed = time.process_time() - started
            peak.mark()
        assert found == self._output.content["semantic"]
        self.peaks.append(peak.peak_bytes - before)
        return self._num_rows / elapsed

    def pairs(self) -> np.ndarray:
        """Rows of pairs."""
        found = _result(Path(self._plan.uri), self._output.content)
        parts = ScoredDataset(found, CuratedDataset(self._plan.curated)).pairs(FLOOR)
        return np.concatenate([np.stack([a, b], axis=1) for a, b, _ in parts])


class Peer:
    """FAISS, in an interpreter of its own."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        """Start it."""
        script = str(Path(__file__).with_name("selection_peer.py"))
        command = [peer_python(PEER), script, str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._num_rows, self.told = num_rows, {}

    def rate(self) -> float:
        """All of it, from the file of embeddings."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.told = json.loads(self._process.stdout.readline())
        return self._num_rows / self.told["seconds"]

    def close(self) -> np.ndarray:
        """End it; rows of its pairs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        return np.load(self.told["pairs"])


def recall(pairs: np.ndarray, planted: np.ndarray) -> float:
    """Share of the planted pairs that were found."""
    found, wanted = (a.astype(np.int64) << 32 | b.astype(np.int64) for a, b in (pairs.T, planted))
    return float(np.isin(wanted, found).mean())


def vectors(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows around many centres, a share of them copies of others; the planted pairs."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, num_rows // 200), DIM)).astype(np.float32)
    z_img = np.empty((num_rows, DIM), np.float16)
    for start in range(0, num_rows, PER_SHARD):
        num = min(PER_SHARD, num_rows - start)
        owner = rng.integers(0, len(centres), num)
        noise = rng.normal(size=(num, DIM)).astype(np.float32)
        z_img[start : start + num] = centres[owner] + noise
    num_copies = int(DUPLICATE_SHARE * num_rows)
    rows = rng.permutation(num_rows)[: 2 * num_copies]
    first, second = rows[:num_copies], rows[num_copies:]
    noise = rng.normal(size=(num_copies, DIM)).astype(np.float16)
    z_img[second] = z_img[first] + np.float16(0.2) * noise
    return z_img, np.sort(np.stack([first, second]), axis=0)


def _data_set(folder: Path, z_img: np.ndarray) -> dict[str, Result]:
    """A curated and embedded data set without pictures."""
    shards, embedded = [], []
    for shard, first in enumerate(range(0, len(z_img), PER_SHARD)):
        rows = z_img[first : first + PER_SHARD]
        tar, name = f"{shard:05d}.tar", f"{shard:05d}.parquet"
        keys = _keys(first, len(rows))
        table = _samples(keys)
        parquet_sha256 = publish_table(str(folder / "curate" / "shards" / name), table)
        shards.append({"name": tar, "num_samples": len(rows), "num_bytes": 0, "sha256": SHA256})
        shards[-1]["parquet_sha256"] = parquet_sha256
        made = embedding_files.ShardEmbeddings(
            keys=keys.to_pylist(),
            uids=[[] for _ in range(len(rows))],
            text_tokens=[[] for _ in range(len(rows))],
            z_img=rows,
            z_txt=np.empty((0, DIM), np.float16),
        ).table(SHA256, SHA256)
        sha256 = publish_table(str(folder / "embed" / name), made)
        embedded.append({"name": name, "sha256": sha256, "shard": tar, "shard_sha256": SHA256})
    content = {"dim": DIM, "clip_sha256": SHA256, "shards": embedded}
    return {
        "curate": _result(folder / "curate", {"shards": shards}),
        "embed": _result(folder / "embed", content),
    }


def _samples(keys: pa.Array) -> pa.Table:
    num = len(keys)
    columns = {name: pa.nulls(num, SAMPLE.field(name).type) for name in SAMPLE.names}
    sides = pa.array(np.full(num, 256, np.int32))
    columns |= {"key": keys, "cluster": keys, "url": keys, "width": sides, "height": sides}
    return pa.table({name: columns[name] for name in SAMPLE.names})


def _keys(first: int, num: int) -> pa.Array:
    words = np.arange(first, first + num, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return pa.array([f"{word:016x}{word ^ 0x5DEECE66D:016x}" for word in words.tolist()])


def _result(folder: Path, content: dict) -> Result:
    return Result("benchmark", str(folder), {"content": content, "config": {}}, "")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
