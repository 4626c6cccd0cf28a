"""Work of an evaluation per shard: reading pictures, finding nearest neighbours.

Each task writes one JSON file, whole or not at all, and returns it at once where it exists, so that
an interrupted evaluation goes on. Dimension names: ``picture``, ``dim``.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from pipeline import storage
from pipeline.evaluation.generated import read_generated, vectors
from pipeline.evaluation.judges import Judge
from pipeline.evaluation.metrics import normalised
from pipeline.partitions import map_partitions
from pipeline.results import Result
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList

Task = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class TaskRow:
    """One unit of work: where its result goes and what makes it."""

    result_uri: str
    work: Task

    def run(self) -> dict[str, Any]:
        """The task's result, from its file where it was finished before."""
        if storage.exists(self.result_uri):
            return storage.read_json(self.result_uri)
        started = time.time()
        found = self.work()
        value = {**found, "started_s": started, "ended_s": time.time()}
        storage.write_json(self.result_uri, value)
        return value


def run_tasks(work: Mapping[str, TaskRow]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results of all tasks; those of finished ones are read, the others go through Ray Data."""
    waiting = {name: row for name, row in work.items() if not storage.exists(row.result_uri)}
    for name in work.keys() - waiting.keys():
        yield name, work[name].run()
    rows = [{"name": name} for name in waiting]
    for done in map_partitions(functools.partial(_run_row, work=waiting), rows):
        yield done["name"], done["result"]


def _run_row(row: dict[str, Any], work: Mapping[str, TaskRow]) -> dict[str, Any]:
    return {"name": row["name"], "result": work[row["name"]].run()}


@dataclass(frozen=True)
class JudgeShard:
    """Reads every picture of one generated shard."""

    generated: Result
    entry: Mapping[str, Any]
    judge: Judge

    def __call__(self) -> dict[str, Any]:
        """``readings``: per picture its key, kind, number, prompt, truths and what was read."""
        readings = [
            {
                "key": made.key,
                "kind": made.kind,
                "index": made.index,
                "prompt": made.prompt,
                "truth": made.truth,
                "z_img_truth": made.z_img_truth,
                "reading": dict(self.judge(made.image())),
            }
            for made in read_generated(self.generated, self.entry)
        ]
        return {"readings": readings}


@dataclass(frozen=True)
class NearestInShard:
    """The training pictures of one shard that are closest to each generated picture."""

    embedded: EmbeddedDataset
    keep_list: KeepList
    shard: int
    z_img_of_picture: Float32[np.ndarray, " picture dim"]
    num_nearest: int

    def __call__(self) -> dict[str, Any]:
        """``nearest``: per generated picture a list of ``[cosine, shard, key]``, best first."""
        wanted = set(self.keep_list.keys(self.shard, "train"))
        table = self.embedded.table(self.shard, ["key", "z_img"])
        rows = [row for row, key in enumerate(table["key"].to_pylist()) if key in wanted]
        if not rows:
            return {"nearest": [[] for _ in self.z_img_of_picture]}
        chosen = table.take(rows)
        keys = chosen["key"].to_pylist()
        cosines = normalised(self.z_img_of_picture) @ normalised(vectors(chosen["z_img"])).T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, : self.num_nearest]
        nearest = [
            [[float(cosines[picture, place]), self.shard, keys[place]] for place in places]
            for picture, places in enumerate(best.tolist())
        ]
        return {"nearest": nearest}
