"""Write the data card of a finished run: what the data is, where it comes from, what fell and why.

``card.html`` and ``card.md`` are made from the run's manifests and tables alone, beside its stages
or in the folder ``--output`` names, and are kept with the data set's run in MLflow. No Ray is
started; every caption is read once.

    python -m jobs.card --config jobs/configs/demo/run.yaml
    python -m jobs.card --config jobs/configs/demo/run.yaml --output published --no-tracking
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import show_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the card goes."""
    parser.add_argument("--output", metavar="FOLDER", help="where it is written (default: the run)")
    parser.add_argument("--no-tracking", action="store_true", help="do not keep it in MLflow")


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Write the card; where it lies."""
    from pipeline.chain.card import write_run_card

    yield write_run_card(run, options.output, is_tracked=not options.no_tracking)


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
