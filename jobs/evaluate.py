"""Measure generated pictures and write the report.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.evaluate --config jobs/configs/demo/run.yaml

Or measure a run's models, each beside what it must beat, on held-out samples; the same command
does nothing once it is finished. ``protocols.json`` and ``protocols.html`` say what was found.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml --protocol priors
python -m jobs.evaluate --config jobs/configs/demo/run.yaml --protocol decoder --protocol upsamplers
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jobs.command import run_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


PROTOCOLS = ("priors", "decoder", "upsamplers", "manipulations")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to measure instead of the generated pictures."""
    parser.add_argument(
        "--protocol",
        action="append",
        default=[],
        choices=PROTOCOLS,
        help="priors: trains rival_priors, draws of each against the true embeddings, losses with "
        "other conditions; decoder: losses with other conditions, DDIM inversion; upsamplers: "
        "against bicubic; manipulations: what jobs.manipulate keeps, moves and loses; may be "
        "repeated",
    )


def protocols(run: "RunFile", options: argparse.Namespace) -> dict[str, Any] | None:
    """The protocols that are asked for."""
    if not options.protocol:
        return None
    from pipeline.chain.protocols import preview, run_protocols
    from pipeline.progress import Progress

    if options.dry_run:
        return preview(run, options.protocol)
    return run_protocols(run, options.protocol, Progress())


if __name__ == "__main__":
    sys.exit(
        run_job(__doc__ or "", lambda run, options: ["evaluate"], add_options, instead=protocols)
    )
