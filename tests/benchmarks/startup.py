"""From a command to its first finished partition, against a bare Ray Data script's first block.

Both are new processes on the same machine. Cold: each starts a Ray of its own. Warm: both join a
head that stands already, as under ``ray job submit``. Ours imports the pipeline, checks the run
file, takes its folder and counts the captions of a small table; the peer imports Ray and maps one
block.

``python -m tests.benchmarks.startup`` takes about three minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from tests.benchmarks.paired import compare, finish
from tests.ray_head import head
from tests.tiny_run import ROOT

AT_LEAST = {"cold": 0.70, "warm": 0.35}
"""Of the bare script's rate: a little below what was reached, so that a slower start is noticed."""
RUN_FILE = "jobs/configs/real/photos.yaml"
FIRST_WORK = "count-captions: 1/1 "
"""What the job says when its first partition is finished."""
NUM_CAPTIONS = 100
PEER = """
import os
import ray
own = {} if "RAY_ADDRESS" in os.environ else {"address": "local", "include_dashboard": False}
ray.init(log_to_driver=False, **own)
assert ray.data.range(1, override_num_blocks=1).map_batches(lambda batch: batch).count() == 1
print("worked", flush=True)
"""


def main() -> int:
    """Compare a cold and a warm start."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="start-") as name, head(token=True) as joined:
        return finish(
            [_compare("cold", Path(name), own), _compare("warm", Path(name), {**own, **joined})]
        )


def _compare(start: str, folder: Path, environment: Mapping[str, str]) -> dict:
    table, runs = folder / "pairs.parquet", iter(range(1000))
    captions = [f"a photograph of thing number {number}" for number in range(NUM_CAPTIONS)]
    paths = [f"{number}.jpg" for number in range(NUM_CAPTIONS)]
    pq.write_table(pa.table({"path": paths, "caption": captions}), table)

    def job() -> list[str]:
        """A command that finds nothing finished."""
        settings = [f"candidates.path={table}", "candidates.url_prefix=http://127.0.0.1/"]
        settings += [f"output_dir={folder}/{start}-{next(runs)}"]
        command = [sys.executable, "-m", "jobs.queries", "--config", RUN_FILE]
        return [*command, *(word for each in settings for word in ("--set", each))]

    found = compare(
        f"start, {start}",
        lambda: 1 / _seconds_until(FIRST_WORK, job(), environment),
        lambda: 1 / _seconds_until("worked", [sys.executable, "-c", PEER], environment),
        unit="starts/s",
        at_least=AT_LEAST[start],
        peer_named={"command": "ray.init and one block of Ray Data", "version": ray.__version__},
    )
    return found | {"seconds": 1 / found["ours"], "peer_seconds": 1 / found["peer"]}


def _seconds_until(said: str, command: list[str], environment: Mapping[str, str]) -> float:
    """Seconds from a command's start to the line that begins so; the command then runs to its end.

    Raises:
        AssertionError: It fails, or never says it.
    """
    started, seconds, lines = time.perf_counter(), None, []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if seconds is None and line.startswith(said):
                seconds = time.perf_counter() - started
    assert process.returncode == 0, "".join(lines)
    assert seconds is not None, "".join(lines)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
