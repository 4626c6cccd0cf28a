"""A node of a cluster dies in the middle of ``curate``.

``python -m tests.chaos.node <folder>`` starts a cluster of its own (a head without CPUs and two
nodes of one each), curates the folder's ``pictures`` on it, and kills one node with SIGKILL, its
raylet and all that this has started, once it has finished a partition and works on another. It
prints one JSON object: the content of the stage, and where each partition ran.
"""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline import steps
from pipeline.candidates.config import FolderConfig
from pipeline.curation.config import CurateConfig
from pipeline.curation.curate import curate
from pipeline.partitions import Row, map_partitions
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from tests.local_curation import VALUES, balanced_of, pair

NUM_BUCKETS = 12
POLL_S = 0.01


def main() -> None:
    """Curate on three nodes, of which two are left."""
    folder = Path(sys.argv[1])
    prepare_environment()
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="up", dir="/tmp") as temporary:
        os.environ["RAY_TMPDIR"] = temporary
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 << 20}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
            os.environ["RAY_ADDRESS"] = cluster.address
            victim = nodes[1].all_processes["raylet"][0].process.pid
            with ray_session(RayConfig(allow_open_cluster=True)):
                steps.map_partitions = _told(folder / "ran")
                killer = threading.Thread(target=_kill, args=(folder / "ran", victim), daemon=True)
                killer.start()
                output = curate(
                    CurateConfig.model_validate(VALUES),
                    FolderConfig(type="folder", path=str(folder / "pictures")),
                    balanced(folder),
                    str(folder / "curate"),
                    Progress(),
                )
                killer.join(10)
        finally:
            cluster.shutdown()
    ran = [json.loads(path.read_text()) for path in sorted((folder / "ran").iterdir())]
    print(json.dumps({"content": output.content, "ran": ran, "victim": victim}))


def balanced(folder: Path) -> Any:
    """The pairs of the folder's pictures."""
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    return balanced_of(folder, [pair(name, f"picture {name}") for name in names], NUM_BUCKETS)


def _told(place: Path) -> Any:
    place.mkdir()

    def run(work: Any, rows: list[Row]) -> Any:
        return map_partitions(_Telling(work, str(place)), rows)

    return run


class _Telling:
    """A task that leaves a note when it starts and another when it ends, with its raylet's pid."""

    def __init__(self, work: Any, place: str) -> None:
        self._work, self._place = work, place

    def __call__(self, row: Row) -> Row:
        raylet = psutil.Process().ppid()
        name = f"{time.time_ns()}-{os.getpid()}"
        note = {"raylet": raylet, "number": row["number"], "step": _step(self._work)}
        _write(Path(self._place) / f"{name}-started.json", {**note, "event": "started"})
        found = self._work(row)
        _write(Path(self._place) / f"{name}-ended.json", {**note, "event": "ended"})
        return found


def _step(work: Any) -> str:
    """``…/done/crawl`` → ``crawl``."""
    return Path(work.keywords["folder"]).name


def _write(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)


def _kill(place: Path, raylet: int) -> None:
    """SIGKILL to a raylet and its workers while its second partition of the crawl is at work."""
    while True:
        notes = [json.loads(path.read_text()) for path in place.glob("*.json")]
        here = [note for note in notes if (note["raylet"], note["step"]) == (raylet, "crawl")]
        mine = [note["event"] for note in here]
        if mine.count("started") > mine.count("ended") >= 1:
            node = psutil.Process(raylet)
            for process in (node, *node.children(recursive=True)):
                process.kill()
            _write(place / "killed.json", {"raylet": raylet, "step": "crawl", "event": "killed"})
            return
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
