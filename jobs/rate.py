"""Let people compare two systems' pictures blindly, and read what they preferred.

Serves a small web page until Ctrl-C; several raters open its link at once, each under a name, and
may stop and go on. A system is a run's output folder, the folder of a finished stage `generate`, or
a folder of pictures; nothing that raters see or load says whose pictures they are. All of it lies
in one SQLite file: the same command goes on with it. For raters on other machines set --host and,
in the environment variable RATING_TOKEN, a secret that becomes part of the link.

    python -m jobs.rate --config jobs/configs/demo/run.yaml --against runs/other
    python -m jobs.rate --config jobs/configs/demo/run.yaml --of ours/ --against theirs/
    python -m jobs.rate --config jobs/configs/demo/run.yaml --export ratings.csv
"""

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import show_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is compared, where, and what is read of it."""
    parser.add_argument("--against", metavar="SYSTEM", help="what the run is compared with")
    parser.add_argument("--of", metavar="SYSTEM", help="the first system (default: this run)")
    parser.add_argument(
        "--question",
        action="append",
        choices=("photorealism", "caption", "diversity"),
        help="ask this only; may be repeated (default: all three)",
    )
    parser.add_argument(
        "--comparisons", type=int, default=100, metavar="N", help="per question (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of pictures, order, sides (default 0)")
    parser.add_argument(
        "--database",
        metavar="FILE",
        default="ratings.sqlite",
        help="default: ratings.sqlite, here",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=8010, help="default: 8010; 0 takes a free one")
    parser.add_argument(
        "--export", metavar="FILE", help="write all answers as .csv, or with the summary as .json"
    )


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Serve, or without ``--against`` say what was preferred so far."""
    from pipeline.rating.results import summary, write
    from pipeline.rating.store import opened

    if options.against is not None:
        _serve(run, options)
    with opened(options.database) as store:
        if options.export is not None:
            write(store, options.export)
        yield summary(store)


def _serve(run: "RunFile", options: argparse.Namespace) -> None:
    from pipeline.config import checked
    from pipeline.progress import Progress
    from pipeline.rating.app import serve
    from pipeline.rating.config import QUESTIONS, PageConfig, StudyConfig

    study = {
        "first": options.of or run.output_dir,
        "second": options.against,
        "questions": options.question or QUESTIONS,
        "num_comparisons": options.comparisons,
        "seed": options.seed,
    }
    pages = {
        "host": options.host,
        "port": options.port,
        "token": os.environ.get("RATING_TOKEN") or None,
    }
    serve(
        checked(StudyConfig, study, "jobs.rate"),
        checked(PageConfig, pages, "jobs.rate"),
        options.database,
        Progress().say,
    )


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
