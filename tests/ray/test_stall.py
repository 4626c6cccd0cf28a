"""A worker that hangs: the step is told and stopped, nothing of it stays, and it goes on later."""

import io
import os
import signal
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipeline.errors import StalledError
from pipeline.partitions import map_partitions
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
STALL_S = 60.0  # beside other work a worker may take half of it to start
ROWS = [{"number": number} for number in range(4)]


def squared(row, folder):
    """The second worker to come to number 2 finishes; the first stops itself as SIGSTOP stops."""
    stopped = Path(folder, "stopped")
    if row["number"] == 2 and not stopped.exists():
        stopped.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return {"squared": row["number"] ** 2}


def found(folder):
    prepare_environment()
    with (
        ray_session(RayConfig(num_cpus=2, stall_s=STALL_S)),
        Progress(io.StringIO()).stage("squares", total=len(ROWS), unit="partitions"),
    ):
        results = map_partitions(partial(squared, folder=str(folder)), ROWS)
        return sorted(each["squared"] for each in results)


def wait_until_gone(pid, limit_s=30):
    """Who was killed stays until his parent has asked for him."""
    ends = time.monotonic() + limit_s
    while psutil.pid_exists(pid):
        assert time.monotonic() < ends, psutil.Process(pid)
        time.sleep(0.1)


def test_a_worker_that_hangs_stops_the_step_which_then_goes_on(tmp_path):
    started = time.monotonic()
    with pytest.raises(StalledError, match=r"60 s \(in squares, .*1 active task"):
        found(tmp_path)
    assert time.monotonic() - started >= STALL_S
    wait_until_gone(int((tmp_path / "stopped").read_text()))
    assert found(tmp_path) == [0, 1, 4, 9]
