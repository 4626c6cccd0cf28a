"""Check a run's data set and what was made from it; say what is wrong, one JSON object per line.

Lengths, hashes, keys and counts of shards, views, embeddings, keep-lists and weights are compared
with their manifests; ``--decode`` opens every picture too. The last line counts. Exit code 3 where
anything is wrong.

python -m jobs.verify --config jobs/configs/demo/run.yaml
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
    """How thorough to be."""
    parser.add_argument("--decode", action="store_true", help="decode every picture too")


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every problem, then the counts.

    Raises:
        QualityError: There are problems.
    """
    from pipeline.chain.plan import recorded
    from pipeline.shards.verify import verify

    results = recorded(run)
    if "curate" not in results:
        raise ConfigError(f"{run.output_dir} holds no finished stage curate; run jobs.curate first")
    checked = verify(results, decode=options.decode)
    yield from checked.problems
    yield checked.counts
    if checked.problems:
        raise QualityError(f"{len(checked.problems)} problems in {run.output_dir}, named above")


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
