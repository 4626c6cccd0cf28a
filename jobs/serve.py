"""Serve a finished run's models with Ray Serve: a page for people, JSON for programs.

python -m jobs.serve --config jobs/configs/demo/run.yaml
python -m jobs.serve --config jobs/configs/demo/run.yaml --model models:/unclip@champion
python -m jobs.serve --config jobs/configs/demo/run.yaml --set serving.num_replicas=2

curl -d '{"prompt": "a red circle", "seed": 1}' http://127.0.0.1:8000/generate -o a.png
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import show_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """Whose models."""
    parser.add_argument(
        "--model",
        metavar="RUN",
        help="another run's output folder, or models:/name@alias in this run's MLflow",
    )


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Serve until Ctrl-C."""
    from pipeline.chain.serving import serve_run
    from pipeline.progress import Progress

    serve_run(run, options.model, Progress())
    yield {"served": options.model or run.output_dir}


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
