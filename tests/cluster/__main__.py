"""A chain by one process on a local disk, and submitted to a cluster with real services; compared.

The cluster is a head without CPUs and three nodes on this machine, with a token; results go to a
real S3 server, what is tracked to MLflow on PostgreSQL with a password. ``--kill decoder`` kills a
node, its raylet and all that this has started, once the stage is under way; ``--kill each`` does so
in every stage that works on nodes, and another node joins each time. Everything must then be as if
nothing had happened: files byte for byte, curves, one finished MLflow run per stage. Trainings that
run inside the job (``num_workers: 0``) go to a worker of the cluster, which changes no bit. With
``--placed`` partitions go to one node, models to the other two, by the nodes' labels; with
``--namespaces`` every node is in a network namespace and has an address of its own.

The last line is one JSON object. Needs Debian's ceph-mon, ceph-osd, radosgw and postgresql. The
tiny run takes some minutes, ``--config jobs/configs/demo/run.yaml`` an hour on two cores.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from tests.cluster.comparison import compared
from tests.cluster.network import Network
from tests.cluster.nodes import Cluster
from tests.cluster.services import services
from tests.cluster.submission import PLACED, Submission, node_cpus
from tests.tiny_run import start, tiny_run

NUM_NODES = 3
DEADLINE_S = 4 * 3600.0


def main() -> int:
    """Run both and compare; 0 where nothing differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="run file (default: a tiny chain)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value")
    parser.add_argument(
        "--kill", nargs="+", default=[], metavar="STAGE", help="stages that lose a node, or each"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the nodes that die")
    parser.add_argument(
        "--namespaces", action="store_true", help="nodes have addresses of their own (needs root)"
    )
    parser.add_argument("--placed", action="store_true", help="partitions here, models there")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tc", dir="/tmp"))
    print(f"in {folder}", file=sys.stderr, flush=True)
    run_file = (options.config or tiny_run(folder)).resolve()
    local, local_s = undisturbed(run_file, folder, options.set)
    kill = options.kill
    if kill == ["each"]:
        kill = sorted(path.parent.parent.name for path in local.glob("*/*/manifest.json"))
    network = Network() if options.namespaces else None
    with closing(network) if network else nullcontext(), services(folder, network) as found:
        cluster = Cluster(found.machine, network=network)
        try:
            cluster.start(NUM_NODES, node_cpus(run_file))
            store = found.store("chain")
            more = [*options.set, *(PLACED if options.placed else ())]
            submission = Submission(cluster, found, store, run_file, more)
            told = submitted(submission, local, kill, options.seed)
        finally:
            cluster.stop()
    print(json.dumps({"seed": options.seed, "undisturbed_s": local_s, **told}))
    if not told["ok"] or (told["without_kill"] and options.kill != ["each"]):
        return 1
    shutil.rmtree(folder)
    return 0


def undisturbed(run_file: Path, folder: Path, more: list[str]) -> tuple[Path, float]:
    """Output folder of a run by one process, and how long it took."""
    started, local = time.monotonic(), folder / "undisturbed"
    sets = [part for setting in [f"output_dir={local}", *more] for part in ("--set", setting)]
    process = start(run_file, *sets)
    _, err = process.communicate(timeout=DEADLINE_S)
    if process.returncode:
        raise RuntimeError(f"the undisturbed run ended with {process.returncode}: {err[-3000:]}")
    return local, round(time.monotonic() - started, 1)


def submitted(submission: Submission, local: Path, kill: list[str], seed: int) -> dict[str, Any]:
    """Submit, kill, compare."""
    started = time.monotonic()
    code = submission.run(DEADLINE_S, kill, seed)
    told: dict[str, Any] = {
        "exit_code": code,
        "cluster_s": round(time.monotonic() - started, 1),
        "calls": submission.calls,
        "kills": [
            {"stage": strike.stage, "node": strike.node, "lost": strike.lost}
            for strike in submission.strikes
        ],
    }
    if code:
        print(submission.log.read_text()[-5000:], file=sys.stderr)
        return {**told, "ok": False}
    missed = sorted(set(kill) - {strike.stage for strike in submission.strikes})
    counts, differences = compared(local, submission)
    differences["misplaced"] = submission.misplaced
    told |= {"without_kill": missed, "compared": counts, "differences": differences}
    return {**told, "ok": not any(differences.values())}


if __name__ == "__main__":
    sys.exit(main())
