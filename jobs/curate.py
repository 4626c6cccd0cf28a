"""Balance candidates by queries, crawl them, and write deduplicated WebDataset shards.

python -m jobs.curate --config jobs/configs/demo/run.yaml
python -m jobs.curate --config jobs/configs/real/laion.yaml --texts-only
ray job submit --working-dir . -- python -m jobs.curate --config jobs/configs/demo/run.yaml
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.command import pilot_options, run_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """The pilot's options, and where to stop."""
    pilot_options(parser)
    parser.add_argument(
        "--texts-only",
        action="store_true",
        help="stop before the crawl, with the balanced pairs and a report about the queries",
    )


def choose(run: "RunFile", options: argparse.Namespace) -> Sequence[str]:
    """Balancing, then the pictures unless they are not wanted yet."""
    return ["balance"] if options.texts_only or run.curate is None else ["balance", "curate"]


if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", choose, add_options))
