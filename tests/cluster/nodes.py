"""A Ray cluster on this machine, started as people start one: a ``ray start --block`` per node.

Nodes share at most the machine's address: each has its ports, its temporary folder, in a network
also its address, and dies alone.
"""

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.cluster.network import Network
from tests.mlflow_server import free_port

BINARIES = Path(sys.executable).parent
UP_S = 600.0  # beside other work; seconds on a quiet machine
WORK = re.compile(r"ray::(RayTrainWorker|Map\(|MapWorker\(.*\)\.)")
"""So the processes are called that do a stage's work; others are Ray's own, or wait for work."""
POOLS = ("cpu", "gpu")
"""Label ``pool`` of a cluster's nodes: the first one's, and that of all others."""
JOINED = """
import sys
import ray
ray.init(log_to_driver=False)
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))
"""


def _inside(namespace: str) -> list[str]:
    """What goes before a command that shall run in a namespace."""
    return ["ip", "netns", "exec", namespace] if namespace else []


class Node:
    """A ``ray start --block`` and all that it has started."""

    def __init__(self, name: str, pool: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self.pool, self.process = name, pool, process

    def at_work(self) -> list[str]:
        """What it does of a stage's work."""
        found = []
        for each in self.processes():
            with contextlib.suppress(psutil.Error):
                title = " ".join(each.cmdline()).strip()
                found += [title] if WORK.match(title) else []
        return found

    def kill(self) -> None:
        """As a machine goes whose power fails."""
        for each in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()

    def stop(self) -> None:
        """In order, and what does not go is killed."""
        tree = self.processes()
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        for each in psutil.wait_procs(tree, timeout=20)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """All that live of it."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Cluster:
    """A head, and workers that come and go."""

    def __init__(
        self, machine: Mapping[str, str], *, token: bool = True, network: Network | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            machine: What the machines have in their environment beside what is everywhere.
            token: Whether it asks for one.
            network: Where nodes have addresses of their own.
        """
        from ray.util import get_node_ip_address

        self.folder = Path(tempfile.mkdtemp(prefix="cl", dir="/tmp"))  # sockets need short names
        self._network = network
        self._head, address = network.add() if network else ("", get_node_ip_address())
        self.address = f"{address}:{free_port()}"
        self.dashboard = f"http://{address if network else '127.0.0.1'}:{free_port()}"
        foreign = ("RAY_", "AWS_", "MLFLOW_")
        ours = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        ours |= {"HOME": str(self.folder), "PATH": f"{BINARIES}:{os.environ['PATH']}"}
        ours |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": str(int(UP_S))}
        ours |= {"RAY_AUTH_MODE": "token" if token else "disabled"}
        if token:
            self.token = secrets.token_hex(32)
            (self.folder / "token").write_text(self.token)
            ours["RAY_AUTH_TOKEN_PATH"] = str(self.folder / "token")
        self.client = ours
        """Environment of whoever uses it."""
        self._machine = {**ours, **machine}
        self.nodes: list[Node] = []
        """Those that live, the head first."""
        self._started = 0

    def start(self, num_nodes: int, num_cpus: int) -> None:
        """A head without CPUs but with the job API, and nodes that work."""
        self.start_head(num_cpus=0, dashboard=True)
        for number in range(num_nodes):
            self.add(num_cpus, POOLS[min(number, 1)])
        self.wait()

    def start_head(self, num_cpus: int, *, dashboard: bool = False) -> None:
        """The first node."""
        host, port = self.address.split(":")
        options = ["--head", "--node-ip-address", host, "--port", port]
        options += ["--num-cpus", str(num_cpus), "--ray-client-server-port", str(free_port())]
        seen = urlsplit(self.dashboard)
        options += ["--include-dashboard", str(dashboard).lower()]
        options += ["--dashboard-host", str(seen.hostname), "--dashboard-port", str(seen.port)]
        self._start(options, namespace=self._head)
        self.wait()

    def add(self, num_cpus: int, pool: str = POOLS[0]) -> None:
        """One more node; ``wait`` until it has joined."""
        options = ["--address", self.address, "--num-cpus", str(num_cpus)]
        namespace, address = self._network.add() if self._network else ("", "")
        options += ["--node-ip-address", address] if address else []
        self._start([*options, "--labels", f"pool={pool}"], pool, namespace)

    def _start(self, options: list[str], pool: str = "", namespace: str = "") -> None:
        name = f"n{self._started}"
        self._started += 1
        command = [*_inside(namespace), str(BINARIES / "ray"), "start", "--block", *options]
        command += ["--temp-dir", str(self.folder / name), "--object-store-memory", str(100 << 20)]
        # What is the same by default on every node, which nodes of one machine cannot share.
        command += ["--min-worker-port", "0", "--max-worker-port", "0"]
        command += ["--dashboard-agent-listen-port", "0"]
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                command, env=self._machine, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(Node(name, pool, process))

    def wait(self) -> None:
        """Until every node has joined."""
        until, wanted = time.monotonic() + UP_S, str(len(self.nodes))
        asked = [*_inside(self._head), sys.executable, "-c", JOINED, wanted]
        environment = {**self.client, "RAY_ADDRESS": self.address}
        while subprocess.run(asked, env=environment, capture_output=True, check=False).returncode:
            ended = [node for node in self.nodes if node.process.poll() is not None]
            assert not ended, self.said(ended[0])
            assert time.monotonic() < until, "".join(map(self.said, self.nodes))

    def said(self, node: Node) -> str:
        """What a node's start has printed."""
        return (self.folder / f"{node.name}.log").read_text()

    def kill(self, node: Node) -> None:
        """Take a node away."""
        node.kill()
        self.nodes.remove(node)

    def stop(self) -> None:
        """End all nodes, workers first, and remove their folders."""
        for node in reversed(self.nodes):
            node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
