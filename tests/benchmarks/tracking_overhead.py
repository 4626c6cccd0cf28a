"""What tracking costs a training: the same loop with and without MLflow following it.

A real server takes the metrics while the loop runs in this process, whose interpreter it shares
with the thread that follows it: the worst place for a loop to be. Then the same with the server
stopped. Needs a finished demo: ``python -m tests.benchmarks.tracking_overhead --run runs/demo``.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.progress import Progress
from pipeline.tracking import Tracking
from pipeline.tracking_store import TrackingConfig
from pipeline.training.following import followed
from pipeline.training.loop import train_loop
from pipeline.training.settings import LoopSettings
from tests.benchmarks.loop import rate, settings_of
from tests.benchmarks.paired import compare, finish
from tests.mlflow_server import Server

AT_LEAST = 0.99


def main() -> int:
    """Compare the prior's loop tracked with the same untracked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/demo", help="output folder of a finished run")
    parser.add_argument("--steps", type=int, default=240)
    arguments = parser.parse_args()
    settings = settings_of(arguments.run, "prior", arguments.steps)
    with tempfile.TemporaryDirectory(prefix="mlflow-") as name:
        server = Server(Path(name))
        server.start()
        try:
            running = _compare("tracked", settings, server.address)
        finally:
            server.stop()
        stopped = _compare("tracked, server stopped", settings, server.address)
    return finish([running, stopped])


def _compare(name: str, settings: LoopSettings, address: str) -> dict:
    return compare(
        name,
        lambda: _rate(settings, lambda own: _tracked(own, address)),
        lambda: _rate(settings, lambda own: nullcontext()),
        unit="samples/s",
        at_least=AT_LEAST,
        peer_named={
            "command": "the same loop, followed by nobody",
            "version": torch.__version__,
            "global_batch_size": settings.config.global_batch_size,
        },
    )


def _rate(
    settings: LoopSettings, follow: Callable[[LoopSettings], AbstractContextManager[None]]
) -> float:
    with tempfile.TemporaryDirectory(prefix="tracked-") as folder:
        own = replace(settings, uri=folder)
        with follow(own):
            train_loop(own)
        steps = own.config.samples // own.config.global_batch_size
        return rate(own, steps // 4)


@contextmanager
def _tracked(settings: LoopSettings, address: str) -> Iterator[None]:
    """As ``fit`` has it."""
    quiet = io.StringIO()
    tracking = Tracking(
        TrackingConfig(uri=address, experiment="overhead"), settings.uri, "overhead", quiet.write
    )
    tracking.start()
    run = tracking.stage("prior", "0" * 64, {}, {})
    with followed(settings, "prior", Progress(quiet), run.publish, run.log_picture):
        yield
    run.finish("FINISHED", {}, [])
    tracking.finish("FINISHED", {}, [])


if __name__ == "__main__":
    sys.exit(main())
