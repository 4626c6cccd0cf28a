"""Balance candidates by queries, crawl them, and write deduplicated WebDataset shards.

With a section ``adopt`` instead: take shards that somebody else wrote, where they lie. With a
section ``img2dataset`` in the place of ``curate``: let it do the crawl, for trusted addresses.

python -m jobs.curate --config jobs/configs/demo/run.yaml
python -m jobs.curate --config jobs/configs/real/laion.yaml --texts-only
python -m jobs.curate --config jobs/configs/real/webdataset.yaml --set adopt.path=shards
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
    """Balancing, then the pictures unless they are not wanted yet; or adopting what is there."""
    if run.adopt is not None:
        return ["curate"]
    has_pictures = run.curate is not None or run.img2dataset is not None
    return ["balance", "curate"] if has_pictures and not options.texts_only else ["balance"]


if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", choose, add_options))
