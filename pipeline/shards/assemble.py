"""Kept pictures of a pool → shards and views, with everything the manifest will say of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from pipeline import storage
from pipeline.images.decode import POOL_EXTENSION, open_rgb
from pipeline.shards import manifest, views, writer
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.writer import TarShardWriter


@runtime_checkable
class Pool(Protocol):
    """The pictures' bytes."""

    def seek(self, offset: int, /) -> object:
        """Go to a byte."""

    def read(self, length: int, /) -> bytes:
        """The next bytes."""
        ...


@dataclass(frozen=True)
class PoolSample:
    """One kept picture: its metadata and where its bytes lie."""

    metadata: Mapping[str, Any]
    """A value for every column of the shard's table."""
    offset: int
    length: int


@dataclass(frozen=True)
class WrittenShard:
    """A shard and its views."""

    shard: ShardEntry
    views: dict[str, ShardEntry]
    """By side in pixels, as text: keys of JSON."""
    licences: dict[str, int]
    """Samples per licence."""


def write_shards(
    stage_uri: str,
    samples: Sequence[PoolSample],
    pool: Pool,
    *,
    schema: pa.Schema,
    first_index: int,
    samples_per_shard: int,
    views_px: Sequence[int],
) -> list[WrittenShard]:
    """Write the samples of one partition.

    Args:
        stage_uri: Folder of the stage.
        samples: Sorted by key.
        pool: The pictures' bytes.
        schema: Columns of the shards' tables.
        first_index: Number of the first shard.
        samples_per_shard: Samples per shard at most.
        views_px: Sides of the views.

    Returns:
        One entry per shard, in order; no shard where there are no samples.
    """
    written = []
    for number, start in enumerate(range(0, len(samples), samples_per_shard)):
        name = manifest.shard_name(first_index + number)
        chunk = samples[start : start + samples_per_shard]
        written.append(_write_shard(stage_uri, name, chunk, pool, schema, views_px))
    return written


def _write_shard(
    stage_uri: str,
    name: str,
    samples: Sequence[PoolSample],
    pool: Pool,
    schema: pa.Schema,
    views_px: Sequence[int],
) -> WrittenShard:
    folder = manifest.folder(stage_uri)
    table = pa.Table.from_pylist([dict(sample.metadata) for sample in samples], schema=schema)
    parquet = storage.join(folder, manifest.parquet_name(name))
    parquet_sha256 = writer.publish_table(parquet, table)
    sides: list[int | None] = [None, *views_px]
    with ExitStack() as stack:
        tars = {
            side: TarShardWriter(
                stack.enter_context(
                    storage.open_for_publish(storage.join(manifest.folder(stage_uri, side), name))
                )
            )
            for side in sides
        }
        for sample in samples:
            texts = writer.texts(sample.metadata)
            for side, image, extension in _forms(sample, pool, views_px):
                tars[side].add(texts, image, extension)
        entries = {side: tar.close(name, parquet_sha256) for side, tar in tars.items()}
    writer.write_stats(folder, entries[None], table, manifest.lineage(stage_uri))
    of_side = {str(side): entries[side] for side in views_px}
    return WrittenShard(entries[None], of_side, manifest.licences(table))


def _forms(
    sample: PoolSample, pool: Pool, views_px: Sequence[int]
) -> Iterator[tuple[int | None, bytes, str]]:
    """The picture as the pool holds it (no side), then its views: side, bytes, extension."""
    pool.seek(sample.offset)
    encoded = pool.read(sample.length)
    yield None, encoded, POOL_EXTENSION
    if not views_px:
        return
    image = open_rgb(encoded)
    for side in views_px:
        yield side, views.encode_view(image, side), views.extension(side)
