"""Which data sets, keep-lists and models of an output folder hold or read given samples.

Every version in the folder is looked at, not only those that the run's index names: shards, views,
embeddings, scores, keep-lists, trainings, finished or not. How often a training read a sample is
exact, for its order is a function of its keep-lists, seed and position; of an unfinished training
it is counted up to its last checkpoint.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.curation.limits import PAIRS
from pipeline.results import INDEX, Result, read_result, stage_places
from pipeline.shards import manifest, removals
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.keep_list import KeepList
from pipeline.shards.removals import Removals
from pipeline.training.reading_record import RECORD, Reading

Artefact = dict[str, Any]
"""``artefact`` (its kind), ``stage, folder, file``, ``current`` (whether the run's index names it),
and ``samples``: of each its ``key`` and what this artefact says of it."""
TOTAL = "total"
SHOWN = 4
"""Keys that a line for people names."""


@dataclass(frozen=True)
class DatasetSamples:
    """The samples of one data set that are meant."""

    curated: Result
    by_shard: dict[int, list[dict[str, Any]]]
    """``key, url, uids`` of each, by the number of the shard."""

    @property
    def keys(self) -> list[str]:
        """All keys, shard by shard."""
        return [row["key"] for rows in self.by_shard.values() for row in rows]


def lineage(output_dir: str, wanted: Removals) -> Iterator[Artefact]:
    """Every artefact that holds one of the samples, and the totals at the end.

    Args:
        output_dir: A run's folder.
        wanted: Which samples.
    """
    found, results = [], all_results(output_dir)
    trainings = list(_trainings(output_dir, results))
    datasets = samples_of(_datasets(results, trainings), wanted)
    current = _current(output_dir)
    for dataset in datasets:
        found += [*_stored(dataset), *_before(dataset, results), *_embedded(dataset, results)]
        found += [*_scored(dataset, results), *_listed(dataset, results)]
    found += [each for training in trainings for each in _read(training, datasets)]
    for each in found:
        yield {**each, "current": each["folder"] in current}
    yield _total(found, datasets)


def all_results(output_dir: str) -> list[Result]:
    """Every finished stage folder below an output folder, by stage and identity."""
    folders = [
        storage.join(output_dir, stage, identity)
        for stage in storage.list_names(output_dir)
        for identity in storage.list_names(storage.join(output_dir, stage))
    ]
    found = [read_result(folder) for folder in folders]
    return [result for result in found if result is not None]


def samples_of(datasets: Sequence[Result], wanted: Removals) -> list[DatasetSamples]:
    """The samples that are meant in each data set; those without any are left out."""
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for curated in datasets:
            look = partial(_named_in, curated, wanted)
            rows = pool.map(look, range(len(CuratedDataset(curated).shards)))
            by_shard = {shard: meant for shard, meant in enumerate(rows) if meant}
            if by_shard:
                found.append(DatasetSamples(curated, by_shard))
    return found


def _named_in(curated: Result, wanted: Removals, shard: int) -> list[dict[str, Any]]:
    return removals.named_in(curated, shard, wanted)


def _current(output_dir: str) -> set[str]:
    if not storage.exists(storage.join(output_dir, INDEX)):
        return set()
    return set(stage_places(output_dir).values())


@dataclass(frozen=True)
class _Training:
    """A training with a record of what it read."""

    stage: str
    uri: str
    samples_seen: int
    is_finished: bool

    def reading(self) -> Reading:
        return Reading(self.uri)


def _trainings(output_dir: str, results: Sequence[Result]) -> Iterator[_Training]:
    finished = {result.uri: result for result in results}
    for stage in storage.list_names(output_dir):
        for identity in storage.list_names(storage.join(output_dir, stage)):
            uri = storage.join(output_dir, stage, identity)
            if not storage.exists(storage.join(uri, RECORD)):
                continue
            if uri in finished:
                yield _Training(stage, uri, int(finished[uri].content["samples"]), True)
            else:
                yield _Training(stage, uri, _samples_so_far(uri), False)


def _samples_so_far(uri: str) -> int:
    from pipeline import checkpoints

    last = checkpoints.latest(storage.join(uri, "checkpoints"))
    return 0 if last is None else int(last.rsplit("-", 1)[-1])


def _datasets(results: Sequence[Result], trainings: Sequence[_Training]) -> list[Result]:
    """Data sets of the folder, and those elsewhere that its trainings read."""
    found = {result.uri: result for result in results if manifest.SHARDS in result.content}
    found = {uri: result for uri, result in found.items() if "funnel" in result.content}
    for training in trainings:
        for uri in training.reading().curated_uris:
            result = found.get(uri) or read_result(uri)
            if result is not None:
                found[uri] = result
    return list(found.values())


def _artefact(kind: str, result: Result, file: str, samples: list[dict[str, Any]]) -> Artefact:
    told = {"artefact": kind, "stage": result.stage, "folder": result.uri, "file": file}
    return {**told, "samples": samples}


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"key": row["key"]} for row in rows]


def _stored(dataset: DatasetSamples) -> Iterator[Artefact]:
    curated = dataset.curated
    opened = CuratedDataset(curated)
    for shard, rows in dataset.by_shard.items():
        name = opened.shards[shard]["name"]
        yield _artefact("shard", curated, f"{manifest.SHARDS}/{name}", rows)
        for side in opened.views_px:
            yield _artefact("view", curated, f"{manifest.VIEWS}/{side}/{name}", _keys(rows))


def _before(dataset: DatasetSamples, results: Sequence[Result]) -> Iterator[Artefact]:
    """Tables that led to the data set: balanced pairs, and the log of the crawl."""
    curated, keys = dataset.curated, dataset.keys
    folder = storage.join(curated.uri, "crawl_log")
    for name in storage.list_names(folder):
        rows = _rows_of(storage.join(folder, name), "key", keys)
        if rows:
            yield _artefact("crawl_log", curated, f"crawl_log/{name}", rows)
    for result in results:
        if result.manifest_hash == curated.manifest["inputs"].get("balance"):
            for entry in result.content[PAIRS]:
                name = f"{PAIRS}/{entry['name']}"
                rows = _rows_of(storage.join(result.uri, name), "url_id", keys)
                if rows:
                    yield _artefact("pairs", result, name, rows)


def _rows_of(uri: str, column: str, keys: list[str]) -> list[dict[str, Any]]:
    with storage.open_for_read(uri) as file:
        table = pq.read_table(file, columns=[column], filters=[(column, "in", keys)])
    return [{"key": key} for key in sorted(set(table[column].to_pylist()))]


def _embedded(dataset: DatasetSamples, results: Sequence[Result]) -> Iterator[Artefact]:
    shards = [entry["sha256"] for entry in CuratedDataset(dataset.curated).shards]
    for result in results:
        entries = result.content.get("shards", [])
        if "clip_sha256" in result.content and [e.get("shard_sha256") for e in entries] == shards:
            for shard, rows in dataset.by_shard.items():
                yield _artefact("embedding", result, entries[shard]["name"], _keys(rows))


def _scored(dataset: DatasetSamples, results: Sequence[Result]) -> Iterator[Artefact]:
    opened = CuratedDataset(dataset.curated)
    for result in _of_dataset(dataset, results):
        for shard, rows in dataset.by_shard.items():
            name = f"scores/{manifest.parquet_name(opened.shards[shard]['name'])}"
            if storage.exists(storage.join(result.uri, name)):
                yield _artefact("score", result, name, _keys(rows))


def _of_dataset(dataset: DatasetSamples, results: Sequence[Result]) -> Iterator[Result]:
    curated_hash = dataset.curated.manifest_hash
    return (r for r in results if r.manifest["inputs"].get("curate") == curated_hash)


def _listed(dataset: DatasetSamples, results: Sequence[Result]) -> Iterator[Artefact]:
    for result in _of_dataset(dataset, results):
        for profile, entry in sorted(result.content.get("profiles", {}).items()):
            keep = KeepList(storage.join(result.uri, entry["name"]), entry)
            rows = [
                row
                for shard, meant in dataset.by_shard.items()
                for row in _list_rows(keep, shard, [each["key"] for each in meant])
            ]
            yield {**_artefact("keep_list", result, entry["name"], rows), "profile": profile}


def _list_rows(keep: KeepList, shard: int, keys: list[str]) -> list[dict[str, Any]]:
    columns = ["key", "kept", "split", "drop_reason"]
    table = keep.table(shard).select(columns)
    return table.filter(pc.field("key").isin(keys)).to_pylist()


def _read(training: _Training, datasets: Sequence[DatasetSamples]) -> Iterator[Artefact]:
    """What a training read of the samples; of those that it holds out, how they are held out."""
    record, rows = training.reading(), []
    order = record.order()
    for number, (uri, keep) in enumerate(zip(record.curated_uris, record.keeps, strict=True)):
        for dataset in (each for each in datasets if each.curated.uri == uri):
            for shard, meant in dataset.by_shard.items():
                listed = _list_rows(keep, shard, [each["key"] for each in meant])
                offsets = {key: row for row, key in enumerate(keep.keys(shard, "train"))}
                for row in (each for each in listed if each["kept"]):
                    times = 0
                    if row["key"] in offsets:
                        place = record.first_shards[number] + shard, offsets[row["key"]]
                        times = order.times_read(*place, training.samples_seen)
                    rows.append({"key": row["key"], "split": row["split"], "times_read": times})
    if rows:
        yield {
            "artefact": "model",
            "stage": training.stage,
            "folder": training.uri,
            "file": "weights.safetensors" if training.is_finished else "checkpoints",
            "samples": rows,
            "samples_seen": training.samples_seen,
            "is_finished": training.is_finished,
        }


def _total(found: Sequence[Artefact], datasets: Sequence[DatasetSamples]) -> Artefact:
    def files(kind: str) -> int:
        return sum(each["artefact"] == kind and bool(each["samples"]) for each in found)

    models = [
        each["folder"]
        for each in found
        if each["artefact"] == "model" and any(row["times_read"] for row in each["samples"])
    ]
    keeping = [each for each in found if each["artefact"] == "keep_list"]
    return {
        "artefact": TOTAL,
        "samples": len({key for dataset in datasets for key in dataset.keys}),
        "data_sets": len(datasets),
        "shards": files("shard"),
        "views": files("view"),
        "embeddings": files("embedding"),
        "scores": files("score"),
        "keep_lists": sum(any(row["kept"] for row in each["samples"]) for each in keeping),
        "models": len(models),
    }


def as_text(found: Artefact) -> str:
    """One line for people."""
    if found["artefact"] == TOTAL:
        counts = [f"{value} {name.replace('_', ' ')}" for name, value in found.items()]
        return "total: " + ", ".join(counts[1:])
    place = "/".join([*found["folder"].rsplit("/", 2)[1:], found["file"]])
    version = "" if found["current"] else " (an older version)"
    return f"{found['artefact']:10} {place}{version}: {_said(found)}"


def _said(found: Artefact) -> str:
    rows, kind = found["samples"], found["artefact"]
    if kind == "model":
        seen = f"{found['samples_seen']:,} samples{'' if found['is_finished'] else ' so far'}"
        each = [f"{row['key']} ({row['split']}) {row['times_read']} ×" for row in rows]
        return f"read within {seen}: {_few(each)}"
    if kind == "keep_list":
        each = [f"{row['key']} ({row['drop_reason'] or row['split']})" for row in rows]
        return f"keeps {sum(row['kept'] for row in rows)} of {len(rows)}: {_few(each)}"
    return f"holds {len(rows)}: {_few([row['key'] for row in rows])}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
