"""Score the samples, unless that is done, choose those of each profile, and split them.

With --remove, samples are taken out of everything that is made from now on: the request is noted
in the run's ledger of removals, their addresses are never fetched again, and the keep-lists get a
new version at once. With --dry-run it only lists what holds them: shards, keep-lists, models.

python -m jobs.select --config jobs/configs/demo/run.yaml
python -m jobs.select --config jobs/configs/demo/run.yaml --remove key=@keys.txt --dry-run
python -m jobs.select --config jobs/configs/demo/run.yaml --remove domain=photos.example
ray job submit --working-dir . -- python -m jobs.select --config jobs/configs/demo/run.yaml
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from jobs.command import run_job, sample_options

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to remove."""
    sample_options(parser, "--remove", "remove samples")


def remove(run: "RunFile", options: argparse.Namespace) -> dict[str, Any] | None:
    """Carry a request for removal out, or list what it is about; None where there is none."""
    if not options.samples:
        return None
    from pipeline.shards.removal_requests import parse

    entries = parse(options.samples, options.max_hamming)
    from pipeline.chain import removal
    from pipeline.chain.lineage import TOTAL, as_text
    from pipeline.progress import Progress

    if not options.dry_run:
        return removal.remove(run, entries, Progress())
    total: dict[str, Any] = {}
    for found in removal.preview(run, entries):
        if found["artefact"] == TOTAL:
            total = found
        else:
            sys.stdout.write((json.dumps(found) if options.json else as_text(found)) + "\n")
    return total


if __name__ == "__main__":
    stages = ["score", "select"]
    sys.exit(run_job(__doc__ or "", lambda run, options: stages, add_options, instead=remove))
