"""Evaluation pictures as tables of hashes and embeddings, by the CLIP that embedded the data set.

A set is any folder of pictures, tars of WebDataset or Parquet files of pictures. Each is cut into
chunks; a chunk becomes one working table. Pictures are prepared as ``embed`` prepared the data
set's own. Dimension names: ``row``, ``dim``, ``side``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float16, Float32, UInt8, UInt64
from PIL import Image

from pipeline import storage
from pipeline.candidates import files
from pipeline.errors import ConfigError, DataError
from pipeline.identity import files_identity, fingerprint
from pipeline.images.dedup import signature
from pipeline.results import Result
from pipeline.selection.config import EvaluationSetConfig
from pipeline.shards import foreign, views
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.adopt_sample import upright
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.embedding_files import unit
from pipeline.shards.writer import publish_table, read_table

FOLDER = "evaluation"
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tar", ".parquet")
CHUNK = 256
"""Picture files of one task; a tar or a Parquet file is a task of its own."""
MAX_PIXELS = int(AdoptConfig.model_fields["max_pixels"].default)


def pictures_schema(dim: int) -> pa.Schema:
    """Columns of a set's table: name of the picture, its perceptual hash, its raw embedding."""
    vector = pa.list_(pa.float16(), dim)
    return pa.schema([("name", pa.string()), ("phash", pa.uint64()), ("z_img", vector)])


def set_files(config: EvaluationSetConfig) -> list[str]:
    """The files of a set, by name.

    Raises:
        ConfigError: Nothing readable is there.
    """
    return [file for place in config.places() for file in files.expand(place, ENDINGS)]


def sets_hash(sets: Mapping[str, EvaluationSetConfig]) -> str:
    """Identity of all sets: their names and the content of their files."""
    return fingerprint({name: files_identity(set_files(each)) for name, each in sets.items()})


def chunks(sets: Mapping[str, EvaluationSetConfig]) -> list[dict[str, Any]]:
    """Tasks: ``set``, ``files`` and ``image_column`` of each."""
    tasks = []
    for name, config in sorted(sets.items()):
        found = set_files(config)
        single = [file for file in found if not file.lower().endswith((".tar", ".parquet"))]
        parts = [single[start : start + CHUNK] for start in range(0, len(single), CHUNK)]
        parts += [[file] for file in found if file not in set(single)]
        tasks += [
            {"set": name, "files": part, "image_column": config.image_column} for part in parts
        ]
    return tasks


def embed_chunk(
    task: Mapping[str, Any], embedded: Result, curated: Result, clip: Result
) -> tuple[pa.Table, int]:
    """Decode, hash and embed the pictures of one task.

    Args:
        task: One of ``chunks``.
        embedded: Finished `embed` stage, whose way of preparing pictures is followed.
        curated: The data set.
        clip: Its CLIP.

    Returns:
        The rows, and how many pictures could not be decoded.
    """
    dataset, config = CuratedDataset(curated), embedded.manifest["config"]
    encoder = _encoder(storage.join(clip.uri, clip.content["weights"]["name"]), config)
    view_px = None if config["pictures"] == "shard" else dataset.view_for(encoder.side_px)
    tables, num_damaged = [pictures_schema(embedded.content["dim"]).empty_table()], 0
    pictures = _pictures(task)
    while batch := list(islice(pictures, CHUNK)):
        names, hashes, squares = [], [], []
        for name, encoded in batch:
            try:
                image = upright(encoded, MAX_PIXELS)
            except ValueError:
                num_damaged += 1
                continue
            names.append(name)
            hashes.append(signature(image).phash)
            squares.append(_square(image, view_px, encoder.side_px))
        indices = [str(index).encode() for index in range(len(squares))]
        z_img = encoder.images(indices, lambda index, held=squares: held[int(index)])
        tables.append(_table(names, hashes, z_img))
    return pa.concat_tables(tables), num_damaged


def publish_sets(
    uri: str, parts: Mapping[str, list[str]], damaged: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Publish one table per set; returns what the manifest says of each.

    Args:
        uri: The stage's folder.
        parts: Working tables per set, in order.
        damaged: Pictures per set that could not be decoded.

    Raises:
        DataError: A set holds no picture.
    """
    content = {}
    for name, tables in sorted(parts.items()):
        table = pa.concat_tables([read_table(each) for each in tables])
        if table.num_rows == 0:
            raise DataError(
                f"score.evaluation_sets.{name}: none of its {damaged[name]} pictures can be "
                "decoded; correct the path, or the image_column of a Parquet file"
            )
        file = f"{FOLDER}/{name}.parquet"
        sha256 = publish_table(storage.join(uri, file), table)
        content[name] = {
            "name": file,
            "sha256": sha256,
            "num_pictures": table.num_rows,
            "num_damaged": damaged[name],
        }
    return content


@dataclass(frozen=True)
class EvaluationPictures:
    """All pictures of all sets."""

    names: list[str]
    """Of the sets, sorted."""
    owner: np.ndarray
    """Index of each picture's set."""
    phash: UInt64[np.ndarray, " row"]
    z_img: Float16[np.ndarray, " row dim"]
    """Raw embeddings."""
    unit: Float32[np.ndarray, " row dim"]
    """Likewise, of length one."""


@lru_cache(maxsize=1)
def read_sets(uri: str, names: tuple[str, ...], dim: int) -> EvaluationPictures:
    """The published tables of all sets; kept for the next shard of the same process."""
    tables = [read_table(storage.join(uri, FOLDER, f"{name}.parquet")) for name in names]
    owner = np.repeat(np.arange(len(names)), [table.num_rows for table in tables])
    table = pa.concat_tables(tables).combine_chunks()
    flat = table["z_img"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    z_img = np.ascontiguousarray(flat, np.float16).reshape(-1, dim)
    return EvaluationPictures(
        [*names], owner, table["phash"].to_numpy().astype(np.uint64), z_img, unit(z_img)
    )


@lru_cache(maxsize=1)
def _encoder_of(uri: str, batch_size: int) -> Any:  # noqa: ANN401 - torch is imported here alone
    import torch

    from pipeline.models.presets import load_clip
    from pipeline.shards.clip_encoder import ClipEncoder

    return ClipEncoder(load_clip(uri), batch_size, torch.device("cpu"))


def _encoder(uri: str, embed_config: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as above
    return _encoder_of(uri, int(embed_config["batch_size"]))


def _square(
    image: Image.Image, view_px: int | None, side_px: int
) -> UInt8[np.ndarray, " side side 3"]:
    from pipeline.shards.clip_encoder import open_clip_square
    from pipeline.shards.views import shrunk

    if view_px is None:
        return open_clip_square(image, side_px)
    # Through the view's own encoding: that is what the data set's pictures went through.
    return shrunk(decode(views.encode_view(image, view_px)), side_px)


def _table(names: list[str], hashes: list[int], z_img: Float16[np.ndarray, " row dim"]) -> pa.Table:
    dim = z_img.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(z_img.reshape(-1), pa.float16()), dim)
    columns = [pa.array(names, pa.string()), pa.array(hashes, pa.uint64()), vectors]
    return pa.table(columns, schema=pictures_schema(dim))


def _pictures(task: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    for file in task["files"]:
        name = files.base_name(file)
        if file.lower().endswith(".tar"):
            with storage.open_for_read(file) as opened:
                for sample in foreign.read_foreign(opened, file):
                    if sample.drop_reason in (None, foreign.UNREADABLE_JSON):
                        yield f"{name}:{sample.key}", sample.image
        elif file.lower().endswith(".parquet"):
            yield from _of_parquet(file, name, task["image_column"])
        else:
            yield name, storage.read_bytes(file)


def _of_parquet(file: str, name: str, column: str) -> Iterator[tuple[str, bytes]]:
    with storage.open_for_read(file) as opened:
        table = pq.ParquetFile(opened)
        if column not in table.schema_arrow.names:
            raise ConfigError(
                f"{file} has no column {column!r}, only {', '.join(table.schema_arrow.names)}; "
                "name the column of its pictures in image_column"
            )
        row = 0
        for batch in table.iter_batches(CHUNK, columns=[column]):
            for value in batch[column].to_pylist():
                encoded = value.get("bytes") if isinstance(value, dict) else value
                yield f"{name}:{row}", encoded if isinstance(encoded, bytes) else b""
                row += 1
