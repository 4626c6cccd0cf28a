"""Of a whole chain's wall time, the share in which a partition function or a training loop worked.

The rest is Python's and Ray's start, planning, tracking, reports. The chain is run once, into a
folder of its own that is gone afterwards; what counts as work is told by the chain itself.

``python -m tests.benchmarks.orchestration`` takes as long as the demo.
"""

import argparse
import json
import subprocess
import sys
import tempfile

from tests.benchmarks.paired import finish, verdict
from tests.mlflow_server import ROOT

AT_LEAST = 0.80


def main() -> int:
    """Run the chain and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="jobs/configs/demo/run.yaml")
    config = parser.parse_args().config
    with tempfile.TemporaryDirectory(prefix="chain-") as folder:
        command = [sys.executable, "-m", "jobs.run", "--config", config]
        command += ["--set", f"output_dir={folder}/run"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return done.returncode
    told = json.loads(done.stdout.splitlines()[-1])
    worked_s = told["wall_s"] - told["orchestration_s"]
    found = verdict(
        "orchestration",
        [(worked_s, told["wall_s"])],
        unit="s",
        at_least=AT_LEAST,
        peer_named={"command": " ".join(command[1:5]), "what": "wall time of the whole chain"},
        also={"orchestration_s": told["orchestration_s"]},
    )
    return finish([found])


if __name__ == "__main__":
    sys.exit(main())
