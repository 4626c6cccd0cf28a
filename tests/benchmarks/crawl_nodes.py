"""The crawl on 1, 2 and 4 Ray nodes: how near n nodes come to n times one node's rate.

A node is a ``ray start`` with one CPU, and its crawl waits more than it works: the servers answer
after 100 ms, and four transfers in flight keep a quarter of a core busy, so that two cores show
what four nodes do. Each node is given the same number of pictures. Two rates are told: of the whole
stage ``curate`` as it runs, views and the search for duplicates included, whose work four nodes
share two cores for; and of the crawl in it, from the first to the last picture that the servers
sent.

``python -m tests.benchmarks.crawl_nodes`` takes about seven minutes.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from pipeline.candidates import schema
from pipeline.candidates.config import UrlTableConfig
from pipeline.curation.config import CurateConfig
from pipeline.curation.curate import curate
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from tests.benchmarks import crawl_web
from tests.benchmarks.paired import finish, verdict
from tests.cluster.nodes import Cluster
from tests.local_curation import balanced_of, pair_of

NODES = (1, 2, 4)
ROUNDS = 3
PICTURES_PER_HOST = 20
LATENCY_S = 0.1
TRANSFERS = 4
"""In flight on a node: 100 ms each and a few ms of work are a quarter of a core."""
AT_LEAST = 0.90


def main() -> int:
    """Rates on growing clusters, and what they are of a multiple of one node's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=800, help="pictures of a node (default 800)")
    num = parser.parse_args().num
    prepare_environment()
    rounds: dict[int, list[Round]] = {}
    with tempfile.TemporaryDirectory(prefix="crawl-") as name:
        pictures = Path(name, "pictures")
        pictures.mkdir()
        crawl_web.write_pictures(pictures, num * NODES[-1])
        cluster = Cluster({}, token=False)
        try:
            cluster.start_head(num_cpus=0)
            with crawl_web.serving(pictures, num * NODES[-1], LATENCY_S) as port:
                for nodes in NODES:
                    while len(cluster.nodes) <= nodes:
                        cluster.add(num_cpus=1)
                    cluster.wait()
                    rounds[nodes] = _rounds(Path(name), cluster, nodes, num, port)
        finally:
            cluster.stop()
        told = {"pictures": num, "input_sha256": crawl_web.input_sha256(pictures, num)}
    asked = [(name, nodes) for name in ("crawl", "stage") for nodes in NODES[1:]]
    return finish([_verdict(name, nodes, rounds, told) for name, nodes in asked])


@dataclass(frozen=True)
class Round:
    """One run of the stage."""

    stage: float
    """Pictures per second of its whole time."""
    crawl: float
    """Pictures per second between the first and the last that was sent."""
    cores: float
    """Busy on each node."""


def _rounds(folder: Path, cluster: Cluster, nodes: int, num: int, port: int) -> list[Round]:
    """Of one number of nodes; the first, which warms up, is left out."""
    values = {
        "crawl": {
            "user_agent": "BenchmarkBot/1.0 (+https://bench.example/bot)",
            "per_host_delay_s": 0,
            "per_host_concurrency": TRANSFERS,
            "execution": {
                "max_transfers": TRANSFERS,
                "resolve": {"*.example": f"127.0.0.1:{port}"},
            },
        },
        "decode": {"pool_side_px": 256},
        "filters": {"min_side_px": 64},
        "shards": {"views_px": [64]},
    }
    config, found = CurateConfig.model_validate(values), list[Round]()
    pairs = [_pair(number) for number in range(num * nodes)]
    balanced = balanced_of(folder / str(nodes), pairs, nodes, _host_number)
    source = UrlTableConfig(type="url_table", path=str(folder))
    os.environ.update(cluster.client)
    os.environ["RAY_ADDRESS"] = cluster.address
    with ray_session(RayConfig(allow_open_cluster=True)):
        for _ in range(1 + ROUNDS):
            uri = folder / "curate"
            cpu_s, started = _cpu_s(cluster), time.perf_counter()
            output = curate(config, source, balanced, str(uri), Progress(io.StringIO()))
            seconds = time.perf_counter() - started
            cores = (_cpu_s(cluster) - cpu_s) / seconds / nodes
            funnel = output.content["funnel"]
            if funnel["kept"] < 0.99 * len(pairs):
                raise AssertionError(f"pictures were lost: {funnel}")
            shutil.rmtree(uri)
            sent = crawl_web.sent_since(port)
            crawl = (len(sent) - 1) / (sent[-1] - sent[0])
            found.append(Round(len(pairs) / seconds, crawl, cores))
            print(
                f"{nodes} nodes: stage {found[-1].stage:.1f}, crawl {crawl:.1f} pictures/s, "
                f"{cores:.2f} cores each",
                file=sys.stderr,
            )
    return found[1:]


def _cpu_s(cluster: Cluster) -> float:
    """CPU seconds of all processes of the nodes that crawl, those that have ended included."""
    total = 0.0
    for node in cluster.nodes[1:]:
        for each in node.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += sum((times.user, times.system, times.children_user, times.children_system))
    return total


def _pair(number: int) -> dict[str, Any]:
    host = f"site{number // PICTURES_PER_HOST:04d}.example"
    return pair_of(f"http://{host}/{number}.jpg", f"picture {number}")


def _host_number(pair: dict[str, Any]) -> int:
    return int((urlsplit(pair[schema.URL]).hostname or "").removeprefix("site").split(".")[0])


def _verdict(
    name: str, nodes: int, rounds: dict[int, list[Round]], told: dict[str, Any]
) -> dict[str, Any]:
    many, one = ([getattr(each, name) for each in rounds[n]] for n in (nodes, 1))
    return verdict(
        f"{name}, {nodes} nodes",
        [(ours, nodes * alone) for ours, alone in zip(many, one, strict=True)],
        unit="pictures/s",
        at_least=AT_LEAST,
        peer_named={"command": f"{nodes} times the rate of one node", "latency_s": LATENCY_S}
        | told,
        also={"cores_of_a_node": max(each.cores for each in rounds[nodes])},
    )


if __name__ == "__main__":
    sys.exit(main())
