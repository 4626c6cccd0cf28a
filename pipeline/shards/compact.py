"""Compact: a data set rewritten from a keep-list, with nothing in it of what the list drops.

Shards, views, embeddings and the keep-list itself are written anew in the layout of a run: stages
``curate``, ``embed`` and ``select``. Kept samples keep their key, their bytes, their split and
their weight, in their order; shards are filled up again. Pictures of adopted tars become JPEGs of
our own, upright, as a crawl keeps them. The order of the steps:

========  =====================  ==================================================================
step      over                   from → to
========  =====================  ==================================================================
scan      shards                 keep-list and rows → pairs per outcome, followers of clusters
leaders   shards                 which clusters keep their leader; only where there are followers
write     new shards             kept samples → shard, views, embeddings, rows of the keep-list
========  =====================  ==================================================================

A cluster whose leader is dropped is called after its first kept sample, so that no key of a dropped
sample stays. Splits come with the keep-list and do not change by that.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import DataError
from pipeline.images.config import DecodeConfig
from pipeline.images.decode import POOL_EXTENSION, decode
from pipeline.partitions import Row
from pipeline.progress import Progress
from pipeline.results import Result
from pipeline.shards import manifest, views, writer
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList, write_keep_list
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.writer import TarShardWriter, publish_table, read_table
from pipeline.steps import Steps

Piece = list[int]
"""Number of an old shard, and the first and the end of its kept rows that are meant."""


@dataclass(frozen=True)
class CompactPlan:
    """All that a shard's work depends on."""

    curated: Result
    embedded: Result
    keep: KeepList
    samples_per_shard: int
    curate_uri: str
    """Folder of the new data set."""
    embed_uri: str
    """Folder of the new embeddings."""

    @property
    def folder(self) -> str:
        """Working files, and the records of steps."""
        return storage.join(self.curate_uri, "work")

    def keep_rows(self, number: int) -> str:
        """A new shard's rows of the keep-list."""
        return storage.join(self.folder, "keep", f"{number:05d}.parquet")


@dataclass(frozen=True)
class Compacted:
    """What was written, ready for manifests."""

    curate: dict[str, Any]
    shards: list[dict[str, Any]]
    """Of the embeddings: file entries with ``num_captions, sum, sum_of_squares``."""
    keep_tables: list[str]
    """New shards' rows of the keep-list, which `publish_list` joins."""
    intervals: list[tuple[float, float]]


def compact(plan: CompactPlan, progress: Progress) -> Compacted:
    """Rewrite a data set from a keep-list. Ray is open already.

    Args:
        plan: What is rewritten, and where to; unfinished work found there is continued.
        progress: Where people see how far it is.

    Raises:
        DataError: The list keeps nothing, or a file is damaged.
    """
    num_kept = [_num_kept(entry) for entry in plan.keep.entry["shards"]]
    if sum(num_kept) == 0:
        raise DataError(f"{plan.keep.uri} keeps no sample; loosen its profile and select again")
    storage.remove_temporary(plan.curate_uri)
    storage.remove_temporary(plan.embed_uri)
    steps = Steps(plan.folder, progress)
    old = [{"shard": shard} for shard in range(len(num_kept))]
    scanned = steps.run("scan", partial(scan_shard, plan=plan), old)
    names = _cluster_names(plan, steps, scanned)
    new = [{"pieces": pieces} for pieces in cut(num_kept, plan.samples_per_shard)]
    written = steps.run("write", partial(write_shard, plan=plan, names=names), new)
    return Compacted(
        curate=_content(plan, scanned, written),
        shards=[row["embedding"] for row in written],
        keep_tables=[plan.keep_rows(number) for number in range(len(written))],
        intervals=steps.intervals(),
    )


def publish_list(uri: str, done: Compacted) -> dict[str, Any]:
    """Publish the new keep-list and return its manifest entry."""
    names = [entry["name"] for entry in done.curate[manifest.SHARDS]]
    return write_keep_list(uri, names, map(read_table, done.keep_tables))


def cut(num_kept: Sequence[int], samples_per_shard: int) -> list[list[Piece]]:
    """Which kept rows of which old shards make each new shard.

    Args:
        num_kept: Kept rows per old shard.
        samples_per_shard: Samples of a new shard; the last one may hold fewer.
    """
    shards: list[list[Piece]] = []
    room = 0
    for shard, count in enumerate(num_kept):
        start = 0
        while start < count:
            if room == 0:
                shards.append([])
                room = samples_per_shard
            end = min(count, start + room)
            shards[-1].append([shard, start, end])
            room -= end - start
            start = end
    return shards


def _num_kept(entry: Mapping[str, Any]) -> int:
    return sum(int(value) for name, value in entry.items() if name.startswith("num_kept_"))


def scan_shard(row: Row, plan: CompactPlan) -> Row:
    """Pairs of an old shard per outcome, and a follower of each cluster led by another sample.

    Args:
        row: ``shard``: its number.
        plan: What is rewritten.
    """
    shard = row["shard"]
    table = CuratedDataset(plan.curated).rows(shard, ["key", "cluster", "uids"])
    listed = plan.keep.table(shard)
    if table["key"].to_pylist() != listed["key"].to_pylist():
        raise DataError(f"{plan.keep.uri} lists other samples than shard {shard}; select again")
    num_kept, dropped, followers = 0, {}, {}
    reasons = zip(listed["kept"].to_pylist(), listed["drop_reason"].to_pylist(), strict=True)
    for sample, (kept, reason) in zip(table.to_pylist(), reasons, strict=True):
        if not kept:
            dropped[reason] = dropped.get(reason, 0) + len(sample["uids"])
            continue
        num_kept += len(sample["uids"])
        if sample["cluster"] != sample["key"]:
            followers.setdefault(sample["cluster"], sample["key"])
    return {"num_kept": num_kept, "dropped": dropped, "followers": followers}


def leaders_of_shard(row: Row, plan: CompactPlan, clusters: Sequence[str]) -> Row:
    """Which of the clusters have their leader among the kept samples of an old shard."""
    kept = plan.keep.table(row["shard"]).filter(pc.field("kept"))
    return {"leaders": sorted({*kept["key"].to_pylist()} & {*clusters})}


def _cluster_names(plan: CompactPlan, steps: Steps, scanned: Sequence[Row]) -> dict[str, str]:
    """New names of the clusters whose leader is dropped."""
    followers: dict[str, str] = {}
    for row in scanned:
        followers = {**row["followers"], **followers}  # the first follower counts
    if not followers:
        return {}
    task = partial(leaders_of_shard, plan=plan, clusters=sorted(followers))
    rows = steps.run("leaders", task, [{"shard": shard} for shard in range(len(scanned))])
    kept = {key for row in rows for key in row["leaders"]}
    return {cluster: key for cluster, key in followers.items() if cluster not in kept}


def write_shard(row: Row, plan: CompactPlan, names: Mapping[str, str]) -> Row:
    """Write a new shard with its views, embeddings and rows of the keep-list.

    Args:
        row: ``pieces`` and its ``number``.
        plan: What is rewritten.
        names: New names of clusters.
    """
    name = manifest.shard_name(row["number"])
    parts = [_piece(plan, *piece) for piece in row["pieces"]]
    table = _renamed(pa.concat_tables([part.rows for part in parts]), names)
    folder = manifest.folder(plan.curate_uri)
    place = storage.join(folder, manifest.parquet_name(name))
    parquet_sha256 = publish_table(place, table)
    entries = _write_tars(plan, name, table, row["pieces"], parquet_sha256)
    writer.write_stats(folder, entries[None], table)
    listed = pa.concat_tables([part.listed for part in parts])
    named = pa.array([name] * listed.num_rows, pa.string())
    publish_table(plan.keep_rows(row["number"]), listed.set_column(0, "shard", named))
    embedded = pa.concat_tables([part.embedded for part in parts])
    return {
        "shard": entries[None].as_json(),
        "views": {str(side): entry.as_json() for side, entry in entries.items() if side},
        "licences": manifest.licences(table),
        "embedding": embedding_entry(plan, embedded, entries[None]),
    }


@dataclass(frozen=True)
class _Piece:
    """Tables of some kept rows of an old shard."""

    rows: pa.Table
    embedded: pa.Table
    listed: pa.Table


def _piece(plan: CompactPlan, shard: int, start: int, end: int) -> _Piece:
    dataset = CuratedDataset(plan.curated)
    table = plan.keep.table(shard)
    chosen = pa.array(_kept_places(table)[start:end], pa.int64())
    embedded = EmbeddedDataset(plan.embedded, dataset).table(shard)
    rows, listed = dataset.rows(shard).take(chosen), table.take(chosen)
    embedded = embedded.take(chosen)
    keys = rows["key"].to_pylist()
    if not keys == embedded["key"].to_pylist() == listed["key"].to_pylist():
        raise DataError(f"shard {shard}: rows, embeddings and keep-list differ; run jobs.verify")
    return _Piece(rows, embedded, listed)


def _kept_places(table: pa.Table) -> list[int]:
    return [place for place, kept in enumerate(table["kept"].to_pylist()) if kept]


def _renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    clusters = [names.get(cluster, cluster) for cluster in table["cluster"].to_pylist()]
    place = table.schema.get_field_index("cluster")
    renamed = pa.array(clusters, pa.string())
    return table.set_column(place, table.schema.field(place), renamed).combine_chunks()


def _write_tars(
    plan: CompactPlan, name: str, table: pa.Table, pieces: Sequence[Piece], parquet_sha256: str
) -> dict[int | None, ShardEntry]:
    """The pool's pictures and each view; one old tar is in memory at a time."""
    sides: list[int | None] = [None, *CuratedDataset(plan.curated).views_px]
    rows = table.to_pylist()
    entries = {}
    for side in sides:
        place = storage.join(manifest.folder(plan.curate_uri, side), name)
        with ExitStack() as stack:
            file = stack.enter_context(storage.open_for_publish(place))
            tar = TarShardWriter(file, ascending=False)
            pictures = _pictures(plan, side, [row["key"] for row in rows], pieces)
            extension = POOL_EXTENSION if side is None else views.extension(side)
            for row, picture in zip(rows, pictures, strict=True):
                tar.add(writer.texts(row), picture, extension)
            entries[side] = tar.close(name, parquet_sha256)
    return entries


def _pictures(
    plan: CompactPlan, side: int | None, keys: Sequence[str], pieces: Sequence[Piece]
) -> Iterator[bytes]:
    dataset = CuratedDataset(plan.curated)
    adopted = plan.curated.content.get(manifest.ADOPTED)
    first = 0
    for shard, start, end in pieces:
        stored = dataset.pictures(shard, side)
        for key in keys[first : first + end - start]:
            if side is None and adopted is not None:
                yield _as_kept(stored[key], adopted["max_pixels"])
            else:
                yield stored[key]
        first += end - start


def _as_kept(picture: bytes, max_pixels: int) -> bytes:
    """An adopted picture as a crawl keeps it: an upright JPEG, of its own bytes where it can be."""
    found = decode(picture, DecodeConfig(max_pixels=max_pixels, resize_mode="no"))
    if isinstance(found, str):
        raise DataError(f"an adopted picture cannot be decoded any more ({found}); run jobs.verify")
    return found.encoded


def embedding_entry(plan: CompactPlan, table: pa.Table, shard: ShardEntry) -> dict[str, Any]:
    """Publish a new shard's embeddings; what their manifest and their statistics need."""
    from pipeline.shards import embedding_files as files

    dim = int(plan.embedded.content["dim"])
    clip_sha256 = str(plan.embedded.content["clip_sha256"])
    name = manifest.parquet_name(shard.name)
    place = storage.join(plan.embed_uri, name)
    schema = files.schema(dim, clip_sha256, shard.sha256)
    sha256 = publish_table(place, table.cast(schema).combine_chunks())
    values = files.read_z_img(place, dim).astype("float64")
    return {
        "name": name,
        "sha256": sha256,
        "shard": shard.name,
        "shard_sha256": shard.sha256,
        "num_samples": table.num_rows,
        "num_captions": sum(len(uids) for uids in table["uids"].to_pylist()),
        "sum": values.sum(axis=0).tolist(),
        "sum_of_squares": (values**2).sum(axis=0).tolist(),
    }


def _content(plan: CompactPlan, scanned: Sequence[Row], written: Sequence[Row]) -> dict[str, Any]:
    kept = sum(row["num_kept"] for row in scanned)
    dropped = manifest.merge_counts(row["dropped"] for row in scanned)
    shards = [row["shard"] for row in written]
    sides = CuratedDataset(plan.curated).views_px
    return {
        manifest.SHARDS: shards,
        manifest.VIEWS: {str(px): [row["views"][str(px)] for row in written] for px in sides},
        "funnel": manifest.funnel(kept + sum(dropped.values()), kept, dropped),
        "num_samples": sum(entry["num_samples"] for entry in shards),
        "licences": manifest.merge_counts(row["licences"] for row in written),
    }
