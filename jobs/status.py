"""How far a run is: one JSON object per stage, then who holds its folder. Starts nothing.

python -m jobs.status --config jobs/configs/demo/run.yaml
python -m jobs.status --config jobs/configs/demo/run.yaml --set output_dir=/shared/runs/demo
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import show_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The stages as they stand in storage."""
    from pipeline.chain.status import status

    return status(run)


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
