"""The shards that `loader` reads: JPEG views of one side, as both sides read them, and a task."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pipeline.draws import generator
from pipeline.shards import views, writer
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.keep_list import keep_everything
from pipeline.shards.select_config import SplitConfig
from pipeline.shards.tars import read_tar
from pipeline.shards.writer import TarShardWriter
from pipeline.training.batches import DataPlace
from tests.synthetic import publish, sample_key

QUALITY = 90
NUM_PICTURES = 300
"""Different ones; they come again under other keys."""
SPLIT = SplitConfig(seed=1, validation_share=0.0, test_share=0.0)


@dataclass
class ReadPictures:
    """A task that wants the pictures and nothing else; only its reading is measured."""

    view_px: int
    image_px: int | None = None
    needs_embeddings: bool = False
    whole_batch: bool = False

    def build(self):
        raise AssertionError("only reading is measured")

    def prepare(self, sample, rng):
        return {"image": sample.image, "position": np.int64(sample.position)}

    def loss(self, model, batch):
        raise AssertionError("only reading is measured")

    def pictures(self, model, batch):
        return None


def drawn(number: int) -> Image.Image:
    """Smooth shades, a few shapes and grain: bytes per pixel like a photograph's."""
    rng = generator(1, "picture", number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    image = coarse.resize((320, 320), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, size = (int(v) for v in rng.integers(0, 240, 3))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        draw.ellipse((x, y, x + size, y + size), fill=colour)
    grain = rng.normal(0, 6, (320, 320, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def pictures(tars: str | None) -> Iterator[Image.Image]:
    """Pictures of somebody's shards, or drawn ones."""
    if tars is None:
        yield from map(drawn, range(NUM_PICTURES))
        return
    for path in sorted(Path(tars).glob("*.tar")):
        with path.open("rb") as file:
            for sample in read_tar(file, str(path)):
                yield Image.open(io.BytesIO(sample.image)).convert("RGB")


def encoded(side_px: int, tars: str | None) -> list[bytes]:
    """JPEGs of the pictures' views."""
    found = []
    for image in pictures(tars):
        buffer = io.BytesIO()
        views.view(image, side_px).save(buffer, "JPEG", quality=QUALITY)
        found.append(buffer.getvalue())
    return found


def write_dataset(
    folder: Path, jpegs: list[bytes], side_px: int, num_shards: int, per_shard: int
) -> tuple[DataPlace, list[str]]:
    """A curated data set with views of one side, and the paths of their tars."""
    uri, shards, paths = folder / "curate", [], []
    for shard in range(num_shards):
        name = f"{shard:05d}.tar"
        keys = sorted(sample_key(shard * per_shard + n) for n in range(per_shard))
        rows = [_row(key, n) for n, key in enumerate(keys)]
        parquet_sha256 = writer.publish_table(
            str(uri / "shards" / name.replace(".tar", ".parquet")),
            writer.pa.Table.from_pylist(rows, schema=writer.SAMPLE),
        )
        path = uri / "views" / str(side_px) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            tar = TarShardWriter(file)
            for n, row in enumerate(rows):
                number = (shard * per_shard + n) % len(jpegs)
                tar.add(writer.texts(row), jpegs[number], "jpg")
            shards.append(tar.close(name, parquet_sha256).as_json())
        paths.append(str(path))
    total = num_shards * per_shard
    funnel = {"candidates": total, "kept": total, "dropped": {}}
    content = {"shards": shards, "views": {str(side_px): shards}, "funnel": funnel}
    curated = publish(str(uri), "curate", content)
    keep = keep_everything(CuratedDataset(curated), SPLIT, str(folder / "keep.parquet"))
    return DataPlace(curated.uri, keep), paths


def _row(key: str, number: int) -> dict:
    return {
        "key": key,
        "url": f"http://host{number % 97}.example/{key}.jpg",
        "captions": [f"a picture with the number {number} of a few shapes before smooth shades"],
        "uids": [key],
        "sha256": key * 2,
        "width": 320,
        "height": 320,
        "original_width": 320,
        "original_height": 320,
        "phash": key[:16],
        "cluster": key,
        "queries": [1, 2],
        "page_url": None,
        "licence": None,
    }
