"""Check a cluster against a run file before hours are spent; one JSON object per check.

Versions and clocks of all nodes, the output folder read and written from every one of them, CPUs
and GPUs against the run's settings, how fast the workers of its largest training add up, tokens.
Exit code 3 where anything is wrong. Without a cluster it checks the private Ray that a run on this
machine would have.

python -m jobs.preflight --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.preflight --config ... --stage decoder
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import show_job
from pipeline.errors import ConfigError, QualityError

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """The stages whose needs are asked for."""
    parser.add_argument(
        "--stage", action="append", default=[], help="this stage's CPUs and GPUs alone; repeatable"
    )


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every check, then how many failed.

    Raises:
        ConfigError: No stage of that name takes CPUs or GPUs of its own.
        QualityError: A check failed.
    """
    from pipeline.chain.cluster_check import check_cluster, wanted
    from pipeline.runtime import ray_session

    if unknown := set(options.stage) - set(wanted(run)):
        raise ConfigError(f"--stage {', '.join(unknown)}: the run has {', '.join(wanted(run))}")
    failed = []
    allowing = run.execution.ray.model_copy(update={"allow_open_cluster": True})
    with ray_session(allowing):  # an open one is told as a check among the others
        for check in check_cluster(run, options.stage):
            failed += [] if check["ok"] else [check["check"]]
            yield check
    yield {"failed": failed}
    if failed:
        raise QualityError(f"{', '.join(failed)}: see the remedies above")


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
