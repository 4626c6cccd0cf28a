"""What a data set says about itself: its manifest, and the names of its files."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.errors import DataError
from pipeline.identity import fingerprint
from pipeline.results import Result, read_result

SHARDS = "shards"
VIEWS = "views"
ADOPTED = "adopted"
"""In the content of a data set whose tars somebody else wrote: how they were read."""
PLACES = "places.json"
"""In the folder of such a data set: where each tar lies. A circumstance, outside every hash."""
LINEAGE = "lineage.json"
"""In the folder of a data set, before its first shard: what it is made of. Each shard says it."""
UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a data set."""

    name: str
    """File name of the tar, ``00000.tar``."""
    num_samples: int
    num_bytes: int
    """Length of the tar."""
    sha256: str
    """Of the tar."""
    parquet_sha256: str
    """Of ``NNNNN.parquet``, which holds the samples' metadata; views share their shard's."""

    def as_json(self) -> dict[str, Any]:
        """The entry as it stands in the manifest."""
        return asdict(self)


def shard_name(index: int) -> str:
    """``00000.tar``: img2dataset's numbering."""
    return f"{index:05d}.tar"


def parquet_name(tar_name: str) -> str:
    """Name of the metadata table beside a tar."""
    return tar_name.removesuffix(".tar") + ".parquet"


def stats_name(tar_name: str) -> str:
    """Name of the statistics beside a tar."""
    return tar_name.removesuffix(".tar") + "_stats.json"


def folder(stage_uri: str, view_px: int | None = None) -> str:
    """Where the pictures of the pool (no side) or the views of one side lie."""
    if view_px is None:
        return storage.join(stage_uri, SHARDS)
    return storage.join(stage_uri, VIEWS, str(view_px))


def read_manifest(stage_uri: str) -> Result:
    """The finished curate stage in a folder.

    Raises:
        DataError: There is none.
    """
    result = read_result(stage_uri)
    if result is None or SHARDS not in result.content:
        raise DataError(
            f"{stage_uri}: no finished data set (no manifest.json with shards); give the folder "
            "of a finished curate stage, or run that stage to its end"
        )
    return result


def entries(content: Mapping[str, Any], view_px: int | None = None) -> list[dict[str, Any]]:
    """The shards that a curate stage's content lists.

    Raises:
        DataError: There are no views of that side.
    """
    if view_px is None:
        listed = content[SHARDS]
    elif str(view_px) in content.get(VIEWS, {}):
        listed = content[VIEWS][str(view_px)]
    else:
        sides = ", ".join(sorted(content.get(VIEWS, {}), key=int)) or "none"
        raise DataError(f"no views of {view_px} px in this data set; there are: {sides}")
    return [dict(entry) for entry in listed]


def places(stage_uri: str) -> dict[str, str]:
    """Where the tars of an adopted data set lie, by name."""
    return storage.read_json(storage.join(stage_uri, PLACES))


def write_lineage(stage_uri: str, config: Mapping[str, Any], upstream: Mapping[str, str]) -> None:
    """State what a data set is made of; the same for every attempt.

    Args:
        stage_uri: Its folder.
        config: Semantic configuration of what becomes of each picture, as in the manifest.
        upstream: Hash of the manifest, or of the content, of each thing it starts from.
    """
    said = {"config_sha256": fingerprint(dict(config)), "upstream": dict(upstream)}
    storage.write_json(storage.join(stage_uri, LINEAGE), said)


def lineage(stage_uri: str) -> dict[str, Any]:
    """``config_sha256, upstream`` of a data set; empty where nobody has stated it."""
    uri = storage.join(stage_uri, LINEAGE)
    return storage.read_json(uri) if storage.exists(uri) else {}


def merge_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up counts by name, such as drop reasons; sorted by name, zeros left out."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return {name: total[name] for name in sorted(total) if total[name]}


def licences(table: pa.Table) -> dict[str, int]:
    """Samples per licence of a shard's table; those without a stated one count as ``unknown``."""
    counted = table.column("licence").fill_null(UNKNOWN_LICENCE).value_counts().to_pylist()
    return merge_counts({each["values"]: each["counts"]} for each in counted)


def funnel(candidates: int, kept: int, dropped: Mapping[str, int]) -> dict[str, Any]:
    """Where every candidate pair went.

    Raises:
        DataError: Some pair is unaccounted for, or counted twice.
    """
    total = kept + sum(dropped.values())
    if candidates != total:
        raise DataError(
            f"{candidates} candidates, but {kept} kept + {total - kept} dropped = {total}; a "
            "working file was changed or lost: delete the stage's folder and run again"
        )
    return {"candidates": candidates, "kept": kept, "dropped": dict(dropped)}
