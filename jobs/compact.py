"""Rewrite a data set from one of its keep-lists: shards, views, embeddings of what it keeps.

What the list drops, removed samples above all, occurs nowhere in the new folder. The same command
goes on after an interruption and does nothing once it is finished.

python -m jobs.compact --config jobs/configs/demo/run.yaml --profile generative --output runs/small
ray job submit --working-dir . -- python -m jobs.compact --config ... --profile ... --output ...
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jobs.command import run_job
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """From which list, and where to."""
    parser.add_argument("--profile", required=True, help="name of the keep-list")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--samples-per-shard",
        type=int,
        metavar="N",
        help="samples of a new shard (default: as many as the largest shard has now)",
    )


def compact(run: "RunFile", options: argparse.Namespace) -> dict[str, Any]:
    """Compact, or say what would be written."""
    from pipeline.chain.compaction import compact_run, preview
    from pipeline.progress import Progress

    if options.samples_per_shard is not None and options.samples_per_shard < 1:
        raise ConfigError(f"--samples-per-shard {options.samples_per_shard}: at least 1 is needed")
    wanted = run, options.profile, options.output, options.samples_per_shard
    return preview(*wanted) if options.dry_run else compact_run(*wanted, Progress())


if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", lambda run, options: [], add_options, instead=compact))
