"""A real Ray head at this machine's own address, and jobs that use it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.nodes import Cluster
from tests.tiny_run import ROOT


@contextmanager
def head(*, token: bool) -> Iterator[dict[str, str]]:
    """Environment of a process that uses the head: its address, and the token where it has one."""
    cluster = Cluster({}, token=token)
    try:
        cluster.start_head(num_cpus=2)
        yield {**cluster.client, "RAY_ADDRESS": cluster.address}
    finally:
        cluster.stop()


def job(name: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """``python -m jobs.<name>`` on the demo's run file."""
    config = ["--config", "jobs/configs/demo/run.yaml"]
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", *config, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
