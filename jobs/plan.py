"""What a run file takes, before anything is taken: nothing is read but manifests, nothing started.

Per training parameters, operations, memory of one worker, hours and dollars; storage, bandwidth
and cores of the data; how often checkpoints pay, on 1 to 1,024 devices that fail. Tables go to
standard error, one JSON object to standard output.

    python -m jobs.plan --config jobs/configs/paper/decoder.yaml
    python -m jobs.plan --config jobs/configs/paper/decoder.yaml --gpu h200 --gpu-price 3 --mfu 0.4
    python -m jobs.plan --config jobs/configs/karlo/prior.yaml --pictures 115000000 --output p.html
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import show_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is rented, and what is assumed of it."""
    parser.add_argument("--stage", action="append", default=[], help="one training; repeatable")
    parser.add_argument("--gpu", default="h100", help="a100, l40s, h100 (default), h200, b200")
    parser.add_argument("--gpu-price", type=float, metavar="DOLLARS", help="of one GPU's hour")
    parser.add_argument("--mfu", type=float, metavar="SHARE", help="of the GPU's peak that is used")
    parser.add_argument("--pictures", type=int, metavar="N", help="of a data set not there yet")
    parser.add_argument(
        "--hours-between-failures", type=float, metavar="H", help="of one device (default: 50,677)"
    )
    parser.add_argument(
        "--restart-s", type=float, default=300.0, metavar="S", help="after a failure (default: 300)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the failures (default: 0)")
    parser.add_argument("--output", metavar="FILE.html", help="one HTML page with plots")


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The plan."""
    from pipeline.planning import page, text
    from pipeline.planning.offers import offer
    from pipeline.planning.plan import make_plan

    found = make_plan(run, offer(run, vars(options)), tuple(options.stage), options.pictures)
    sys.stderr.write("\n".join(text.lines(found)) + "\n")
    if options.output is not None:
        sys.stderr.write(f"\n{page.write(found, options.output)}\n")
    yield found.as_json()


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
