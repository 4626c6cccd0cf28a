"""A real Ray head at this machine's own address, started as people start one."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.mlflow_server import ROOT, free_port

BINARIES = Path(sys.executable).parent
UP_S = 600.0  # beside other work; seconds on a quiet machine


@contextmanager
def head(*, token: bool) -> Iterator[dict[str, str]]:
    """Environment of a process that uses the head: its address, and the token where it has one."""
    from ray.util import get_node_ip_address

    folder = Path(tempfile.mkdtemp(prefix="up", dir="/tmp"))
    address = f"{get_node_ip_address()}:{free_port()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "600"}
    environment |= {"RAY_AUTH_MODE": "token" if token else "disabled", "HOME": str(folder)}
    if token:
        (folder / "token").write_text(secrets.token_hex(32))
        environment["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
    host, port = address.split(":")
    command = [BINARIES / "ray", "start", "--head", "--block", "--include-dashboard=false"]
    command += ["--node-ip-address", host, "--port", port, "--num-cpus", "2"]
    command += ["--object-store-memory", str(100 << 20), "--temp-dir", folder / "r"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + UP_S
        inside = {**environment, "RAY_ADDRESS": address}
        asked = [sys.executable, "-c", "import ray; ray.init(log_to_driver=False)"]
        while subprocess.run(asked, env=inside, capture_output=True, check=False).returncode:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
        yield inside
    finally:
        started = psutil.Process(process.pid)
        _end([*started.children(recursive=True), started])
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _end(processes: list[psutil.Process]) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.terminate()
    for each in psutil.wait_procs(processes, timeout=20)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


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
