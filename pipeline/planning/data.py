"""What a run's data takes: storage, bandwidth while training, cores that decode.

Where a stage is finished its own files are counted; before, pictures are taken to be as large as
190 photographs whose views were made and decoded here.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.chain.plan import recorded
from pipeline.models.config import ClipConfig
from pipeline.planning.trainings import Training, clip_of
from pipeline.results import INDEX, Result
from pipeline.run_file import RunFile
from pipeline.training.budget import example
from pipeline.training.inputs import TaskInputs
from pipeline.training.tasks import build_task

VIEW_RATES = {64: (8505, 0.16e-3), 256: (35_587, 0.55e-3), 1024: (370_869, 7.5e-3)}
"""Side of a view → bytes of a picture in its tar, and CPU seconds to decode it: means of 190
photographs (PNG at 64 px, JPEG of quality 95 above), one core of a shared Xeon at 2.5 GHz."""
EMBEDDING_EXTRA_BYTES = 97
"""Of a picture with one caption beside z_img and z_txt: key, uid, tokens, similarity; as the
demo's files have it."""
TIMINGS = 5
VIEWS, EMBEDDINGS = "views of {} px", "embeddings"
SHORT_CAPTION = "a photograph of a red circle on a grey background"


@dataclass(frozen=True)
class Stored:
    """One kind of files."""

    what: str
    bytes_per_picture: float | int
    num_pictures: int | None
    """None where nobody has said how many there are."""
    is_counted: bool
    """Of finished files, not by rule."""

    @property
    def num_bytes(self) -> float | int | None:
        """All of them."""
        return None if self.num_pictures is None else self.bytes_per_picture * self.num_pictures


@dataclass(frozen=True)
class Reading:
    """What one training asks of the data."""

    stage: str
    bytes_per_s: float
    cores: float
    """Busy with decoding and preparing samples, at the training's rate."""
    passes: float | None
    """How often every picture is read; None where their number is unknown."""


def stored(run: RunFile, num_pictures: int | None) -> list[Stored]:
    """Views and embeddings of a run, counted or by rule.

    Args:
        run: The run file.
        num_pictures: Of the data set, where it is not there yet.
    """
    found = _finished(run)
    curated = found.get("curate")
    if curated is not None:
        num_pictures = curated.content["num_samples"]
    rows = []
    if curated is not None:
        rows.append(_counted("shards", curated.content["shards"], num_pictures))
    for side in run.views_px():
        listed = None if curated is None else curated.content["views"].get(str(side))
        if listed is not None:
            rows.append(_counted(VIEWS.format(side), listed, num_pictures))
        else:
            size = view_rate(side)[0]
            rows.append(Stored(VIEWS.format(side), size, num_pictures, is_counted=False))
    return [*rows, *_embeddings(run, found, num_pictures)]


def _counted(what: str, entries: list[Mapping[str, int]], num_pictures: int | None) -> Stored:
    total = sum(entry["num_bytes"] for entry in entries)
    return Stored(what, total / max(1, num_pictures or 0), num_pictures, is_counted=True)


def _embeddings(
    run: RunFile, found: Mapping[str, Result], num_pictures: int | None
) -> list[Stored]:
    clip, embedded = clip_of(run), found.get("embed")
    if run.embed is None or clip is None:
        return []
    if embedded is None:
        return [Stored(EMBEDDINGS, embedding_bytes(clip), num_pictures, is_counted=False)]
    names = [entry["name"] for entry in embedded.content["shards"]]
    total = sum(storage.size_of(storage.join(embedded.uri, name)) for name in names)
    count = embedded.content["num_samples"]
    return [Stored(EMBEDDINGS, total / max(1, count), count, is_counted=True)]


def _finished(run: RunFile) -> dict[str, Result]:
    if not storage.exists(storage.join(run.output_dir, INDEX)):
        return {}
    return recorded(run)


def embedding_bytes(clip: ClipConfig) -> int:
    """Of one picture with one caption: two vectors in float16 and what goes with them."""
    return 2 * 2 * clip.embed_dim + EMBEDDING_EXTRA_BYTES


def view_rate(side_px: int) -> tuple[float, float]:
    """Bytes and seconds of a view of any side: per pixel as the nearest one that was measured."""
    nearest = min(VIEW_RATES, key=lambda side: abs(np.log(side / side_px)))
    size, seconds = VIEW_RATES[nearest]
    pixels = (side_px / nearest) ** 2
    return size * pixels, seconds * pixels


def reading(
    run: RunFile, training: Training, files: list[Stored], num_pictures: int | None
) -> Reading:
    """What a training asks of storage and of the cores beside the GPUs.

    Preparing a sample (draws, crops, degradation, tokens) is timed here and now.
    """
    config, clip = training.config, clip_of(run)
    task = build_task(config.task, TaskInputs())
    sizes = {each.what: each.bytes_per_picture for each in files}
    size, seconds, times = 0.0, 0.0, []
    if task.view_px is not None:
        size, seconds = view_rate(task.view_px)
        size = sizes.get(VIEWS.format(task.view_px), size)
    if task.needs_embeddings:
        size += sizes.get(EMBEDDINGS, 0)
    for _ in range(TIMINGS):
        started = time.perf_counter()
        example(task, config.task, clip, SHORT_CAPTION)
        times.append(time.perf_counter() - started)
    rate = training.samples_per_s
    passes = None if not num_pictures else config.samples / num_pictures
    return Reading(training.stage, rate * size, rate * (seconds + min(times)), passes)
