"""Which data sets, keep-lists and models saw given samples; writes nothing.

Every version below the output folder is looked at. Of a model it says how often its training read
each sample, exactly.

python -m jobs.lineage --config jobs/configs/demo/run.yaml --of url=http://a.example/cat.jpg
python -m jobs.lineage --config jobs/configs/demo/run.yaml --of key=@keys.txt --json
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import sample_options, show_job
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which samples, and how to tell."""
    sample_options(parser, "--of", "samples to look for")


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any] | str]:
    """Every artefact that holds one of them, then the totals."""
    from pipeline.shards.removal_requests import parse
    from pipeline.shards.removals import Removals

    if not options.samples:
        raise ConfigError("--of KIND=VALUE is missing; name the samples to look for")
    wanted = Removals(parse(options.samples, options.max_hamming))
    from pipeline.chain.lineage import as_text, lineage

    found = lineage(run.output_dir, wanted)
    yield from found if options.json else map(as_text, found)


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
