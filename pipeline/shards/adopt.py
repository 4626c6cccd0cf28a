"""Adopt: somebody else's WebDataset → what ``curate`` leaves, without copying a picture.

The tars stay where they are. Beside each goes a small manifest, and the stage's folder gets a
table per tar, the small views with the same keys, and the manifest of the whole; whatever follows
reads it as it reads our own shards. The order of the steps:

======  ====================  =====================================================================
step    over                  from → to
======  ====================  =====================================================================
scan    tars                  hash, read, decode, filter → rows, views: one fused task
judge   everything (driver)   hashes of the rows → duplicate clusters; keys differ everywhere
finish  tars                  rows and clusters → tables; manifests beside the tars
======  ====================  =====================================================================
"""

import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.candidates import files
from pipeline.config import semantic
from pipeline.errors import ConfigError, DataError
from pipeline.identity import files_identity, fingerprint
from pipeline.images import block_list, dedup, rejects
from pipeline.images.rejects import Rejects
from pipeline.partitions import Row
from pipeline.progress import Progress
from pipeline.results import StageOutput
from pipeline.shards import foreign, manifest, views, writer
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.adopt_sample import (
    AdoptedSample,
    adopt_sample,
    blocked_by,
    scan_schema,
    table_schema,
)
from pipeline.shards.writer import TarShardWriter, publish_table, read_table
from pipeline.steps import Steps, result

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_TARS = 1_000_000
NUM_NAMED = 3
"""Damaged tars that an error names."""
VERDICTS = pa.schema([("key", pa.string()), ("cluster", pa.string())])


@dataclass(frozen=True)
class AdoptPlan:
    """All that a tar's work depends on."""

    config: AdoptConfig
    tars: tuple[str, ...]
    """Where the tars lie, in the order of their names."""
    uri: str
    """Folder of the stage."""

    @property
    def folder(self) -> str:
        """Working files, and the records of steps."""
        return storage.join(self.uri, "work")

    def work(self, kind: str, index: int) -> str:
        """A working table: ``work/<kind>/<index>.parquet``."""
        return storage.join(self.folder, kind, f"{index:05d}.parquet")


def adopt(config: AdoptConfig, uri: str, progress: Progress) -> StageOutput:
    """Adopt a WebDataset. Ray is open already.

    Args:
        config: Where the tars lie, and how their samples are read.
        uri: Folder of the stage; unfinished work found there is continued.
        progress: Where people see how far it is.

    Returns:
        Content with ``shards, views, funnel, num_samples, licences, adopted`` as ``curate`` gives
        it, and the work's intervals.

    Raises:
        ConfigError: The path holds no tar, or two of one name.
        DataError: Too many tars are damaged, keys come twice, or no sample is left.
    """
    plan = AdoptPlan(_with_absolute_lists(config), tuple(tars(config.path)), uri)
    storage.remove_temporary(uri)
    upstream = {"shards": fingerprint(identity(config))}
    manifest.write_lineage(uri, semantic(config.without_place()), upstream)
    places = {files.base_name(tar): tar for tar in plan.tars}
    storage.write_json(storage.join(uri, manifest.PLACES), places)
    steps = Steps(plan.folder, progress)
    rows = [{"uri": tar} for tar in plan.tars]
    scanned = steps.run("scan", partial(scan_tar, plan=plan), rows)
    damaged = _count_damage(plan, scanned, progress)
    steps.once("judge", partial(judge, plan, scanned))
    finished = steps.run("finish", partial(finish_tar, plan=plan), rows)
    _publish_rejects(plan)
    if any(not row["is_beside"] for row in finished if row) and config.execution.manifests_beside:
        progress.say(f"manifests lie in {uri} alone: nobody may write beside the tars")
    if not config.execution.keep_working_files:
        storage.remove_folder(plan.folder)
    return StageOutput(_content(plan, scanned, finished, damaged), steps.intervals())


def tars(path: str) -> list[str]:
    """The tars behind a path, in the order of their names.

    Raises:
        ConfigError: There are none, or two of one name.
    """
    found = _in_range(path) if RANGE.search(path) else files.expand(path, (".tar",))
    by_name: dict[str, str] = {}
    for tar in found:
        name = files.base_name(tar)
        if name in by_name:
            raise ConfigError(
                f"adopt.path={path!r} holds {by_name[name]} and {tar}; the names of tars must "
                "differ: adopt the folders in runs of their own, or rename one"
            )
        by_name[name] = storage.absolute(tar)
    return [by_name[name] for name in sorted(by_name)]


def identity(config: AdoptConfig) -> dict[str, Any]:
    """What the tars are: names, lengths and hashes; where they lie does not enter.

    Tars of up to 1 GiB together are read whole, of more both ends of each.
    """
    return {"files": files_identity(tars(config.path))}


def _with_absolute_lists(config: AdoptConfig) -> AdoptConfig:
    if config.filters is None:
        return config
    return config.model_copy(update={"filters": block_list.absolute(config.filters)})


def scan_tar(row: Row, plan: AdoptPlan) -> Row:
    """One tar → rows and views, unless it is damaged; pixels stay in this task.

    Args:
        row: ``uri`` of the tar and its ``number``.
        plan: The stage's plan.
    """
    try:
        return _scan(row["uri"], row["number"], plan)
    except DataError as error:
        return {"damage": str(error), "kept": 0, "dropped": {}}


def judge(plan: AdoptPlan, scanned: Sequence[Row]) -> Row:
    """Signatures of all samples → clusters of duplicates, a table per tar.

    Raises:
        DataError: Two tars hold the same key.
    """
    tables = {
        number: read_table(plan.work("scan", number), [*dedup.COLUMNS])
        for number, found in enumerate(scanned)
        if "damage" not in found
    }
    _check_keys(plan, tables)
    entries = [dedup.entry(row) for table in tables.values() for row in table.to_pylist()]
    verdicts = dedup.group(entries, plan.config.dedup)
    for number, table in tables.items():
        keys = table.column("key").to_pylist()
        rows = [{"key": key, "cluster": verdicts[key].cluster} for key in keys]
        publish_table(plan.work("verdicts", number), pa.Table.from_pylist(rows, schema=VERDICTS))
    return {}


def finish_tar(row: Row, plan: AdoptPlan) -> Row:
    """Rows and clusters of one tar → its table, and the manifest beside it.

    Args:
        row: ``uri`` of the tar and its ``number``.
        plan: The stage's plan.
    """
    found = result(plan.folder, "scan", row["number"])
    if "damage" in found:
        return {}
    facts = found["facts"]
    scan, verdicts = (read_table(plan.work(kind, row["number"])) for kind in ("scan", "verdicts"))
    table = scan.append_column("cluster", verdicts.column("cluster"))
    table = table.select(table_schema(plan.config).names).cast(table_schema(plan.config))
    place = storage.join(manifest.folder(plan.uri), manifest.parquet_name(facts["name"]))
    parquet_sha256 = publish_table(place, table)
    hashed = {"parquet_sha256": parquet_sha256}
    entry = {**facts, "num_samples": table.num_rows, **hashed}
    known = {**manifest.lineage(plan.uri), "dropped": found["dropped"]}
    writer.write_stats(manifest.folder(plan.uri), manifest.ShardEntry(**entry), table, known)
    return {
        "shard": entry,
        "views": {side: {**view, **hashed} for side, view in found["views"].items()},
        "licences": manifest.licences(table),
        "is_beside": _write_beside(row["uri"], found, plan.config),
    }


def _scan(uri: str, number: int, plan: AdoptPlan) -> Row:
    facts, blocked = foreign.identify(uri), blocked_by(plan.config)
    rejected = Rejects(plan.config.rejects_per_reason)
    rows: list[dict[str, Any]] = []
    num_read = num_kept = 0
    with ExitStack() as stack:
        sides = plan.config.views_px
        view_tars = {side: _open_view(stack, plan, side, facts["name"]) for side in sides}
        file = stack.enter_context(storage.open_for_read(uri))
        for stored in foreign.read_foreign(file, uri):
            sample = adopt_sample(stored, facts["name"], plan.config, blocked)
            num_read += 1
            if sample.drop_reason is not None:
                for pair in sample.pairs():
                    rejected.drop(sample.drop_reason, pair, sample.image)
                continue
            rows.append(sample.row)
            num_kept += sample.num_pairs
            _add_views(view_tars, sample)
        foreign.check_stated_count(uri, num_read)
        closed = {str(side): tar.close(facts["name"], "") for side, tar in view_tars.items()}
    publish_table(plan.work("scan", number), pa.Table.from_pylist(rows, scan_schema(plan.config)))
    publish_table(plan.work("rejects", number), rejected.table())
    return {
        "facts": facts,
        "num_read": num_read,
        "views": {side: entry.as_json() for side, entry in closed.items()},
        "kept": num_kept,
        "dropped": dict(rejected.dropped),
    }


def _open_view(stack: ExitStack, plan: AdoptPlan, side: int, name: str) -> TarShardWriter:
    place = storage.join(manifest.folder(plan.uri, side), name)
    return TarShardWriter(stack.enter_context(storage.open_for_publish(place)), ascending=False)


def _add_views(view_tars: Mapping[int, TarShardWriter], sample: AdoptedSample) -> None:
    assert sample.image is not None
    row = {name: value for name, value in sample.row.items() if name in writer.SAMPLE.names}
    texts = writer.texts(row)
    for side, tar in view_tars.items():
        tar.add(texts, views.encode_view(sample.image, side), views.extension(side))


def _content(
    plan: AdoptPlan, scanned: Sequence[Row], finished: Sequence[Row], damaged: Sequence[str]
) -> dict[str, Any]:
    """What follows from the tars alone, in the form that ``curate`` gives it."""
    whole = [row for row in finished if row]
    kept = sum(row["kept"] for row in scanned)
    dropped = manifest.merge_counts(row["dropped"] for row in scanned)
    num_samples = sum(row["shard"]["num_samples"] for row in whole)
    funnel = manifest.funnel(kept + sum(dropped.values()), kept, dropped)
    if num_samples == 0:
        raise DataError(
            f"adopt.path={plan.config.path!r}: none of {funnel['candidates']} samples can be used: "
            f"{dropped}; look at their members, or name adopt.caption_fields"
        )
    return {
        "shards": [row["shard"] for row in whole],
        "views": {
            str(side): [row["views"][str(side)] for row in whole] for side in plan.config.views_px
        },
        "funnel": funnel,
        "num_samples": num_samples,
        "licences": manifest.merge_counts(row["licences"] for row in whole),
        manifest.ADOPTED: {
            "keys": plan.config.keys,
            "max_pixels": plan.config.max_pixels,
            "damaged": list(damaged),
        },
    }


def _count_damage(plan: AdoptPlan, scanned: Sequence[Row], progress: Progress) -> list[str]:
    """Names of the damaged tars, told; refused where they are too many."""
    found = {
        files.base_name(tar): row["damage"]
        for tar, row in zip(plan.tars, scanned, strict=True)
        if "damage" in row
    }
    for message in found.values():
        progress.say(f"damaged: {message}")
    share = plan.config.max_damaged_share
    if len(found) > math.ceil(share * len(plan.tars)) or len(found) == len(plan.tars):
        storage.remove_folder(storage.join(plan.folder, "done"))  # a repaired tar is read again
        named = "; ".join(list(found.values())[:NUM_NAMED])
        more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
        raise DataError(
            f"{len(found)} of {len(plan.tars)} tars are damaged, above "
            f"adopt.max_damaged_share={share:g}: {named}{more}"
        )
    return sorted(found)


def _check_keys(plan: AdoptPlan, tables: Mapping[int, pa.Table]) -> None:
    owner: dict[str, int] = {}
    for number, table in tables.items():
        for key in table.column("key").to_pylist():
            if key in owner:
                names = [files.base_name(plan.tars[place]) for place in (owner[key], number)]
                storage.remove_folder(storage.join(plan.folder, "done"))
                raise DataError(
                    f"key {key} stands in {names[0]} and in {names[1]}; keys must differ across a "
                    "data set: set adopt.keys=with_shard"
                )
            owner[key] = number


def _write_beside(uri: str, found: Row, config: AdoptConfig) -> bool:
    """Whether the tar has its manifest beside it now."""
    place = foreign.beside(uri, ".manifest.json")
    if storage.exists(place):  # ``identify`` has compared it
        return True
    if not config.execution.manifests_beside or not _may_write(uri):
        return False
    try:
        storage.write_json(place, foreign.manifest_of(found["facts"], found["num_read"]))
    except OSError:
        return False
    return True


def _may_write(uri: str) -> bool:
    """Whether a tar's folder is meant to be written to: root may do so even where nobody should."""
    if not storage.is_local(uri):
        return True
    folder = storage.local_path(uri).parent
    is_closed = not stat.S_IMODE(folder.stat().st_mode) & 0o222
    return not is_closed and os.access(folder, os.W_OK)


def _publish_rejects(plan: AdoptPlan) -> None:
    folder = storage.join(plan.folder, "rejects")
    tables = [read_table(storage.join(folder, name)) for name in storage.list_names(folder)]
    merged = rejects.merge(tables, plan.config.rejects_per_reason)
    writer.publish_rejects(storage.join(plan.uri, "rejects"), merged)


def _in_range(path: str) -> list[str]:
    """``a/{00000..00331}.tar`` → every number of the range, as wide as its first."""
    matches = list(RANGE.finditer(path))
    first, last = (int(number) for number in matches[0].groups())
    if len(matches) > 1 or first > last or last - first >= MAX_TARS:
        raise ConfigError(f"adopt.path={path!r}: one rising range, such as {{00000..00331}}")
    width, (start, end) = len(matches[0][1]), matches[0].span()
    found = [f"{path[:start]}{number:0{width}d}{path[end:]}" for number in range(first, last + 1)]
    missing = [tar for tar in found if not storage.exists(tar)]
    if missing:
        raise ConfigError(
            f"adopt.path={path!r}: {len(missing)} of {len(found)} tars are missing, the first is "
            f"{missing[0]}; correct the range, or give a folder or a glob"
        )
    return found
