"""Look into what a run did: the pairs that a query keeps, one JSON object per line.

python -m jobs.inspect --config jobs/configs/demo/run.yaml --query circle
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import show_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which query, and how many of its pairs."""
    parser.add_argument("--query", required=True, help="a query, as it stands in the list")
    parser.add_argument("--limit", type=int, default=20, help="pairs to show (default: 20)")


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The query's pairs, then its counts."""
    from pipeline.chain.run import finished
    from pipeline.curation.pairs import of_query

    return of_query(finished(run, "balance"), options.query, options.limit)


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
