"""A node of a cluster dies under a training, with a notice before or without.

``python -m tests.chaos.training_node <folder> [--drain]`` starts a cluster of its own (a head
without CPUs and two nodes of one each), trains on both nodes, and kills one with SIGKILL, its
raylet and all that this has started. With ``--drain`` Ray tells the node to go first, as a cloud
does of a spot machine, and no other checkpoint is written than the one that this asks for. Training
goes on with one worker. It prints one JSON object: what was left behind, and what came of it.
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

from pipeline import checkpoints
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.training import launch, spool
from tests.synthetic import SlowTask, loop_settings, make_dataset, train_config

STEPS_BEFORE = 20
GRACE_S = 120
POLL_S = 0.05


def main() -> None:
    """Train on two nodes, of which one is left."""
    folder, drains = Path(sys.argv[1]), "--drain" in sys.argv[2:]
    prepare_environment()
    from ray.cluster_utils import Cluster

    settings = training(folder, drains=drains)
    with tempfile.TemporaryDirectory(prefix="up", dir="/tmp") as temporary:
        os.environ["RAY_TMPDIR"] = temporary
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 << 20}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
            os.environ["RAY_ADDRESS"] = cluster.address
            with ray_session(RayConfig(allow_open_cluster=True)):
                told: dict[str, Any] = {}
                killer = threading.Thread(
                    target=_kill,
                    args=(settings.uri, cluster.address, nodes[1], drains, told),
                    daemon=True,
                )
                killer.start()
                launch.fit(settings, "test", Progress(), lambda _: None, lambda *_: None)
                killer.join(10)
        finally:
            cluster.shutdown()
    starts = [_first_point(path) for path in sorted(Path(settings.uri, "metrics").iterdir())]
    machines = json.loads(Path(settings.uri, "workers.json").read_text())
    print(json.dumps({**told, "starts": starts, "workers": len(machines)}))


def training(folder: Path, *, drains: bool) -> Any:
    """Long enough to lose a node within."""
    every_s = 1e9 if drains else 1.0
    execution = {"num_workers": 2, "min_workers": 1, "threads": 1, "checkpoint_every_s": every_s}
    config = train_config(samples=1600, execution=execution)
    data = make_dataset(folder / "data")
    return loop_settings(data, folder / "run", config=config, task=SlowTask(seconds=0.1))


def _first_point(path: Path) -> int:
    return json.loads(path.read_text().splitlines()[0])[spool.STEP]


def _kill(uri: str, address: str, node: Any, drains: bool, told: dict[str, Any]) -> None:
    """SIGKILL to a raylet and its workers, once training is well under way."""
    place = f"{uri}/checkpoints"
    while not (points := spool.read(uri)) or points[-1][spool.STEP] < STEPS_BEFORE * 8:
        time.sleep(POLL_S)
    if drains:
        _drain(address, node.node_id)
    while not checkpoints.completed(place):
        time.sleep(POLL_S)
    told["checkpoint"] = checkpoints.latest(place)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in (raylet, *raylet.children(recursive=True)):
        process.kill()


def _drain(address: str, node_id: str) -> None:
    """As ``ray drain-node`` does."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + GRACE_S) * 1000)
    accepted, message = GcsClient(address=address).drain_node(
        node_id, reason, "to be reclaimed", deadline_ms
    )
    assert accepted, message


if __name__ == "__main__":
    main()
