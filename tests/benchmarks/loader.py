"""The loader against webdataset: both read, decode and batch the same shards.

``python -m tests.benchmarks.loader`` makes shards of 64 and of 256 px JPEGs (of the pictures in
``--shards``, where given) and takes uint8 batches from each side in turn, made by as many
processes; the other side idles meanwhile. Ours checks every shard's hash and gives the samples in
its global order; the peer does not shuffle and leaves the texts unread, which is its fastest.

``--actors``: our decoders as Ray actors on this machine against our own as processes.
``--resume``: a keep-list of 10,000 shards of 10,000 samples is made, and a reading is begun at 90 %
of the epoch, by one worker of 256 and by one alone: seconds until the keys of its first step.
``--mixing``: how often two samples of a batch come from one shard or one host.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

import webdataset

from pipeline.runtime import RayConfig, ray_session
from pipeline.training.decoder_child import open_loader
from pipeline.training.feeding import fed_parts
from tests.benchmarks import loader_mixing, loader_resume
from tests.benchmarks.loader_shards import ReadPictures, encoded, write_dataset
from tests.benchmarks.paired import Side, compare, finish
from tests.synthetic import loop_settings, train_config

BATCH = 64
NUM_LANES = 4
NUM_SHARDS = 16
"""Four times the lanes, so that no shard is still in memory when it comes again."""
PER_SHARD = {64: 1_000, 256: 250}
BATCHES = {64: 250, 256: 63}
"""Measured at once: a pass over all shards."""
SKIPPED = 12
"""More than either side has ready when it is asked again."""
AT_LEAST = 1.0


def main() -> int:
    """Compare for both sides of pictures and for one and two processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", help="folder of tars whose pictures are read")
    parser.add_argument("--side", type=int, action="append", help="of the pictures; 64 and 256")
    parser.add_argument("--processes", type=int, action="append", help="1 and 2 by default")
    parser.add_argument("--actors", action="store_true", help="Ray actors against processes")
    parser.add_argument("--resume", action="store_true", help="measure resuming instead")
    parser.add_argument("--mixing", action="store_true", help="measure mixing instead")
    parser.add_argument("--run", help="a finished run whose mixing is measured too")
    arguments = parser.parse_args()
    if arguments.mixing:
        return loader_mixing.measure(arguments.run)
    if arguments.resume:
        return finish(loader_resume.measure())
    results = []
    for side_px in arguments.side or list(PER_SHARD):
        with tempfile.TemporaryDirectory(prefix="loader-") as folder:
            jpegs = encoded(side_px, arguments.shards)
            place, paths = write_dataset(
                Path(folder), jpegs, side_px, NUM_SHARDS, PER_SHARD[side_px]
            )
            for processes in arguments.processes or [1, 2]:
                compared = _compare_actors if arguments.actors else _compare
                results.append(compared(place, paths, side_px, processes))
    return finish(results)


def _compare(place, paths: list[str], side_px: int, processes: int) -> dict:
    with ours(place, side_px, processes) as own, peer(paths, side_px, processes) as theirs:
        return compare(
            f"loader {side_px} px, {processes} processes",
            own,
            theirs,
            unit="samples/s",
            at_least=AT_LEAST,
            peer_named={
                "command": 'WebDataset(select jpg).decode("rgb8").batched, WebLoader',
                "version": version("webdataset"),
                "processes": processes,
                "batch": BATCH,
                "bytes": _size(paths),
                "samples": NUM_SHARDS * PER_SHARD[side_px],
            },
        )


def _compare_actors(place, paths: list[str], side_px: int, processes: int) -> dict:
    """Decoders as Ray actors, on this machine, against our own as processes of the worker."""
    with ray_session(RayConfig(num_cpus=processes)):
        on_cluster = ours(place, side_px, processes, decode_on="cluster")
        with on_cluster as own, ours(place, side_px, processes) as theirs:
            return compare(
                f"actors {side_px} px, {processes} actors",
                own,
                theirs,
                unit="samples/s",
                at_least=0.5,
                peer_named={"command": "decoders=processes", "bytes": _size(paths)},
            )


def _size(paths: list[str]) -> int:
    return sum(Path(path).stat().st_size for path in paths)


def _rate(batches: Iterator, side_px: int) -> float:
    for _ in range(SKIPPED):
        next(batches)
    started, wanted = time.perf_counter(), BATCHES[side_px]
    for _ in range(wanted):
        image = next(batches)
        assert image.shape == (BATCH, side_px, side_px, 3)
    return wanted * BATCH / (time.perf_counter() - started)


@contextmanager
def ours(place, side_px: int, processes: int, decode_on: str = "worker") -> Iterator[Side]:
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e9}
    execution |= {"decoders": processes, "decode_on": decode_on}
    config = train_config(
        global_batch_size=BATCH, micro_batch_size=BATCH, num_lanes=NUM_LANES, execution=execution
    )
    task = ReadPictures(side_px)
    settings = loop_settings(place, Path("unused"), config=config, task=task, cache_bytes=0)
    with closing(fed_parts(settings, open_loader(settings), 0, 0, 1)) as parts:
        images = (part.batch["image"] for step in parts for part in step)
        yield lambda: _rate(images, side_px)


@contextmanager
def peer(paths: list[str], side_px: int, processes: int) -> Iterator[Side]:
    pictures = (
        webdataset.WebDataset(
            paths, shardshuffle=False, select_files=lambda name: name.endswith(".jpg")
        )
        .repeat()
        .decode("rgb8")
        .to_tuple("jpg", "__key__")
        .batched(BATCH, partial=False)
    )
    loader = webdataset.WebLoader(pictures, batch_size=None, num_workers=processes)
    batches = iter(loader)
    images = (image for image, _ in batches)
    yield lambda: _rate(images, side_px)


if __name__ == "__main__":
    sys.exit(main())
