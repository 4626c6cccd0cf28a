"""Generated pictures read back from the shards that ``generation/batch.py`` wrote.

Dimension names: ``picture``, ``dim`` (joint embedding).
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32
from PIL import Image

from pipeline import storage
from pipeline.results import Result
from pipeline.shards.manifest import SHARDS, parquet_name
from pipeline.shards.tars import read_shard
from pipeline.shards.writer import read_table

FINAL, DECODER = "final", "decoder"


@dataclass(frozen=True)
class Generated:
    """One generated picture and what it was made from."""

    key: str
    kind: str
    """``final``, ``decoder`` or the name of an ablation."""
    index: int
    """Number of the picture; equal numbers share prompt and noise."""
    prompt: str
    truth: Mapping[str, str | None] | None
    """What a right picture of the prompt shows, where that is known."""
    z_img_truth: Mapping[str, str | None] | None
    """What a right picture of the prompt behind its z_img shows."""
    png: bytes

    def image(self) -> Image.Image:
        """The picture, RGB."""
        with Image.open(io.BytesIO(self.png)) as image:
            return image.convert("RGB")


def read_generated(generated: Result, entry: Mapping[str, Any]) -> Iterator[Generated]:
    """The pictures of one shard, after its file was verified."""
    uri = storage.join(generated.uri, SHARDS, entry["name"])
    for raw in read_shard(uri, entry):
        row = raw.metadata()
        yield Generated(
            key=raw.key,
            kind=row["kind"],
            index=int(row["index"]),
            prompt=row["prompt"],
            truth=row["truth"],
            z_img_truth=row["z_img_truth"],
            png=raw.image,
        )


@dataclass(frozen=True)
class FinalEmbeddings:
    """Embeddings of the final pictures, rows in the order of their numbers."""

    keys: list[str]
    z_img: Float32[np.ndarray, " picture dim"]
    """What the prior drew."""
    z_txt: Float32[np.ndarray, " picture dim"]
    """Of the prompts."""
    z_img_of_picture: Float32[np.ndarray, " picture dim"]
    """Of the finished pictures."""


def read_embeddings(generated: Result) -> FinalEmbeddings:
    """Embeddings of all final pictures."""
    columns = ["key", "kind", "index", "z_img", "z_txt", "z_img_of_picture"]
    folder = storage.join(generated.uri, SHARDS)
    tables = [
        read_table(storage.join(folder, parquet_name(entry["name"])), columns)
        for entry in generated.content["shards"]
    ]
    table = pa.concat_tables(tables)
    order = [i for i, kind in enumerate(table["kind"].to_pylist()) if kind == FINAL]
    final = table.take(order).sort_by("index").combine_chunks()
    return FinalEmbeddings(
        keys=final["key"].to_pylist(),
        z_img=vectors(final["z_img"]),
        z_txt=vectors(final["z_txt"]),
        z_img_of_picture=vectors(final["z_img_of_picture"]),
    )


def vectors(column: pa.ChunkedArray) -> Float32[np.ndarray, " picture dim"]:
    """A column of fixed-size lists as a float32 matrix."""
    array = column.combine_chunks()
    flat = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(len(array), array.type.list_size)
