"""The pictures a report shows: generated ones beside their nearest training pictures."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline import storage
from pipeline.evaluation.generated import FINAL, Generated, read_generated
from pipeline.evaluation.report_data import Neighbour, ShownPicture
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.writer import publish_table, read_table

GALLERY = "gallery.parquet"
GENERATED_PX, NEIGHBOUR_PX = 192, 96
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("reading", pa.string(), nullable=False),
        pa.field("is_right", pa.bool_()),
        pa.field(
            "nearest",
            pa.list_(
                pa.struct(
                    [
                        pa.field("cosine", pa.float32()),
                        pa.field("key", pa.string()),
                        pa.field("caption", pa.string()),
                        pa.field("image", pa.binary()),
                    ]
                )
            ),
        ),
    ]
)
"""One row per shown picture; ``is_right`` is null without a judge or a truth."""

Nearest = Sequence[tuple[float, int, str]]
"""Cosine, shard and key of training pictures, best first."""


def write_gallery(
    uri: str,
    generated: Result,
    curated: CuratedDataset,
    nearest: Mapping[str, Nearest],
    readings: Mapping[str, Mapping[str, str | None]],
    num_shown: int,
) -> str:
    """Publish the first pictures with their neighbours; returns the file's sha256.

    Args:
        uri: Destination file.
        generated: Result of `generate`.
        curated: Training pictures.
        nearest: Neighbours per key of a generated picture.
        readings: What the judge read, per key; empty without a judge.
        num_shown: How many pictures.
    """
    shown = _first_finals(generated, num_shown)
    places = {(shard, key) for made in shown for _, shard, key in nearest.get(made.key, ())}
    neighbours = _training_pictures(curated, places)
    rows = [
        {
            "key": made.key,
            "prompt": made.prompt,
            "image": thumbnail(made.png, GENERATED_PX),
            "reading": reading_text(readings.get(made.key)),
            "is_right": is_right(made, readings.get(made.key)),
            "nearest": [
                {"cosine": cosine, "key": key, **neighbours[shard, key]}
                for cosine, shard, key in nearest.get(made.key, ())
            ],
        }
        for made in shown
    ]
    return publish_table(uri, pa.Table.from_pylist(rows, schema=SCHEMA))


def read_gallery(uri: str) -> list[ShownPicture]:
    """What `write_gallery` wrote, for a report; empty where nothing was written."""
    if not storage.exists(uri):
        return []
    return [
        ShownPicture(
            image=row["image"],
            prompt=row["prompt"],
            reading=row["reading"],
            is_right=row["is_right"],
            nearest=[
                Neighbour(n["image"], float(n["cosine"]), n["caption"]) for n in row["nearest"]
            ],
        )
        for row in read_table(uri).to_pylist()
    ]


def is_right(made: Generated, reading: Mapping[str, str | None] | None) -> bool | None:
    """Whether every attribute that the prompt fixes was read; None where nothing says."""
    asked = {name: value for name, value in (made.truth or {}).items() if value is not None}
    if reading is None or not asked:
        return None
    return all(reading.get(name) == value for name, value in asked.items())


def reading_text(reading: Mapping[str, str | None] | None) -> str:
    """A reading as words, ``none`` where nothing was recognised."""
    if reading is None:
        return ""
    return ", ".join(value for value in reading.values() if value is not None) or "none"


def thumbnail(encoded: bytes, side_px: int) -> bytes:
    """A small JPEG of an encoded picture; small ones are enlarged without smoothing."""
    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened.convert("RGB")
    if max(image.size) * 2 <= side_px:
        factor = side_px // max(image.size)
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    else:
        image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _first_finals(generated: Result, num_shown: int) -> list[Generated]:
    found: list[Generated] = []
    for entry in generated.content["shards"]:
        found += [made for made in read_generated(generated, entry) if made.kind == FINAL]
        if len(found) >= num_shown:
            break
    return sorted(found, key=lambda made: made.index)[:num_shown]


def _training_pictures(
    curated: CuratedDataset, places: set[tuple[int, str]]
) -> dict[tuple[int, str], dict[str, Any]]:
    """Thumbnail and first caption per (shard, key), each shard read once."""
    view_px = min((side for side in curated.views_px if side >= NEIGHBOUR_PX // 2), default=None)
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for shard in sorted({shard for shard, _ in places}):
        pictures = curated.pictures(shard, view_px)
        table = curated.rows(shard, ["key", "captions"])
        captions = dict(zip(table["key"].to_pylist(), table["captions"].to_pylist(), strict=True))
        for key in sorted(key for place, key in places if place == shard):
            found[shard, key] = {
                "image": thumbnail(pictures[key], NEIGHBOUR_PX),
                "caption": captions[key][0],
            }
    return found
