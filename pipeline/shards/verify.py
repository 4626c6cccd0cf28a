"""Check every file of a data set, and of what was made from it, against its manifests.

Nothing stops at the first fault: each is told with the file's name. Shards are checked in threads,
which read and hash while others decode.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.errors import DataError
from pipeline.images.decode import open_rgb
from pipeline.results import Result
from pipeline.shards import manifest
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import SPLITS, KeepList
from pipeline.shards.score_files import ScoredDataset

MAX_SAMPLES_NAMED = 3


@dataclass
class Checked:
    """What was checked, and what was found."""

    problems: list[dict[str, str]] = field(default_factory=list)
    """``stage, file, problem`` of each fault."""
    counts: dict[str, int] = field(default_factory=dict)
    """Shards, samples and pictures that were looked at."""


def verify(results: Mapping[str, Result], *, decode: bool) -> Checked:
    """Check a run's data set with its embeddings, scores, keep-lists and weights.

    Args:
        results: Finished stages by name; ``curate`` among them.
        decode: Whether to decode every picture too, views included.

    Returns:
        Every fault; none where all is well.
    """
    dataset, checked = CuratedDataset(results["curate"]), Checked()
    keys = _check_shards(dataset, checked, decode=decode)
    _note(checked, "curate", _totals(results["curate"], keys))
    if "embed" in results:
        _note(checked, "embed", _embedding_problems(results["embed"], dataset, keys))
    if "score" in results:
        _note(checked, "score", _score_problems(results["score"], dataset, keys))
    if "select" in results:
        _note(checked, "select", _keep_list_problems(results["select"], dataset, keys))
    for name, result in results.items():
        if "weights" in result.content:
            _note(checked, name, _weights_problems(result))
    checked.counts |= {
        "num_shards": len(dataset.shards),
        "num_samples": sum(len(each or ()) for each in keys),
        "num_problems": len(checked.problems),
    }
    return checked


Problem = tuple[str, str]
"""File and what is wrong with it."""
Keys = list[str] | None
"""Of one shard, in its order; None where its table cannot be read."""


def _check_shards(dataset: CuratedDataset, checked: Checked, *, decode: bool) -> list[Keys]:
    """Check every shard; returns their keys."""

    def check(shard: int) -> tuple[Keys, list[Problem]]:
        table = manifest.parquet_name(dataset.shards[shard]["name"])
        keys, found = _guarded(table, lambda: _keys(dataset, shard))
        found += _stats_problems(dataset, shard)
        for view_px in (None, *dataset.views_px):
            found += _picture_problems(dataset, shard, view_px, keys, decode=decode)
        return keys, found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(check, range(len(dataset.shards))))
    for _, found in done:
        _note(checked, "curate", found)
    return [keys for keys, _ in done]


def _keys(dataset: CuratedDataset, shard: int) -> list[str]:
    keys = dataset.rows(shard, ["key"])["key"].to_pylist()
    stated = dataset.shards[shard]["num_samples"]
    if len(keys) != stated:
        raise DataError(f"its table has {len(keys)} rows, the manifest says {stated}")
    return keys


def _picture_problems(
    dataset: CuratedDataset,
    shard: int,
    view_px: int | None,
    keys: Keys,
    *,
    decode: bool,
) -> list[Problem]:
    name = dataset.shards[shard]["name"]
    place = name if view_px is None else f"{manifest.VIEWS}/{view_px}/{name}"
    pictures, found = _guarded(place, lambda: dataset.pictures(shard, view_px))
    if pictures is None:
        return found
    if keys is not None and list(pictures) != keys:
        found.append((place, "holds other keys, or in another order, than the shard's table"))
    if decode:
        open_picture = dataset.open_picture if view_px is None else open_rgb
        bad = [key for key, picture in pictures.items() if not _opens(picture, open_picture)]
        if bad:
            named = ", ".join(bad[:MAX_SAMPLES_NAMED])
            found.append((place, f"{len(bad)} pictures cannot be decoded, such as {named}"))
    return found


def _opens(picture: bytes, open_picture: Callable[[bytes], Any]) -> bool:
    try:
        open_picture(picture)
    except Exception:  # Pillow's plugins raise whatever their parsing meets
        return False
    return True


def _stats_problems(dataset: CuratedDataset, shard: int) -> list[Problem]:
    entry = dataset.shards[shard]
    name = manifest.stats_name(entry["name"])
    uri = storage.join(manifest.folder(dataset.uri), name)
    if not storage.exists(uri):
        return [(name, "is missing; delete the stage's folder and run it again")]
    try:
        stated = storage.read_json(uri)
    except ValueError:
        return [(name, "is no JSON")]
    differing = [field for field in entry if stated.get(field) != entry[field]]
    return [(name, f"{', '.join(differing)} differ from the manifest")] if differing else []


def _totals(curated: Result, keys: list[Keys]) -> Iterator[Problem]:
    """What the manifest says of all shards together."""
    content, name = curated.content, "manifest.json"
    stated = sum(int(entry["num_samples"]) for entry in content[manifest.SHARDS])
    if content["num_samples"] != stated:
        yield name, f"num_samples={content['num_samples']}, its shards hold {stated}"
    funnel = content["funnel"]
    if funnel["candidates"] != funnel["kept"] + sum(funnel["dropped"].values()):
        yield name, "its funnel does not add up: candidates are not kept + dropped"
    if "licences" in content and sum(content["licences"].values()) != stated:
        yield name, f"its licences count {sum(content['licences'].values())} of {stated} samples"
    seen: set[str] = set()
    twice = {key for each in keys for key in each or () if key in seen or seen.add(key)}
    if twice:
        yield name, f"{len(twice)} keys stand in two shards, such as {min(twice)}"


def _embedding_problems(
    embedded: Result, dataset: CuratedDataset, keys: list[Keys]
) -> Iterator[Problem]:
    opened, found = _guarded("manifest.json", lambda: EmbeddedDataset(embedded, dataset))
    yield from found
    if opened is None:
        return
    columns = ["key", "uids", "z_txt", "text_tokens"]
    for shard, expected in enumerate(keys):
        name = manifest.parquet_name(dataset.shards[shard]["name"])
        table, found = _guarded(name, lambda shard=shard: opened.table(shard, columns))
        yield from found
        if table is None:
            continue
        if expected is not None and table["key"].to_pylist() != expected:
            yield name, "holds other keys, or in another order, than its shard"
        lengths = [table[column].combine_chunks().value_lengths() for column in columns[1:]]
        if not all(each.equals(lengths[0]) for each in lengths):
            yield name, "uids, z_txt and text_tokens of a sample differ in number"
    for check in (opened.statistics, opened.pca):
        _, found = _guarded("statistics", check)
        yield from found


def _score_problems(result: Result, dataset: CuratedDataset, keys: list[Keys]) -> Iterator[Problem]:
    scored, found = _guarded("manifest.json", lambda: ScoredDataset(result, dataset))
    yield from found
    if scored is None:
        return
    for shard, expected in enumerate(keys):
        name = scored.entries[shard]["name"]
        table, found = _guarded(name, lambda shard=shard: scored.table(shard, ["key"]))
        yield from found
        if None not in (table, expected) and table["key"].to_pylist() != expected:
            yield name, "holds other keys, or in another order, than its shard"
    others = [*result.content["evaluation_sets"].values()]
    for entry in [*others, *([scored.semantic] if scored.semantic else [])]:
        uri = storage.join(result.uri, entry["name"])
        yield from _guarded(entry["name"], lambda entry=entry, uri=uri: _hashed(uri, entry))[1]


def _hashed(uri: str, entry: Mapping[str, Any]) -> None:
    if not storage.exists(uri) or storage.sha256_of(uri) != entry["sha256"]:
        raise DataError("is missing, or its sha256 is not the manifest's: damaged or changed")


def _keep_list_problems(
    selected: Result, dataset: CuratedDataset, keys: list[Keys]
) -> Iterator[Problem]:
    for name, entry in selected.content["profiles"].items():
        keep = KeepList(storage.join(selected.uri, entry["name"]), entry)
        _, found = _guarded(entry["name"], keep.verify)
        yield from found
        if found:
            continue
        for shard, known in enumerate(keys):
            if known is None:
                continue
            listed = {key for split in SPLITS for key in keep.keys(shard, split)}
            unknown = listed - set(known)
            if unknown:
                shard_name = dataset.shards[shard]["name"]
                yield entry["name"], f"{name} keeps {len(unknown)} samples not in {shard_name}"


def _weights_problems(trained: Result) -> Iterator[Problem]:
    entry = trained.content["weights"]
    uri = storage.join(trained.uri, entry["name"])
    if not storage.exists(uri):
        yield entry["name"], "is missing"
    elif storage.sha256_of(uri) != entry["sha256"]:
        yield entry["name"], "is not the file that the manifest names: damaged or changed"


def _guarded(name: str, read: Callable[[], Any]) -> tuple[Any, list[Problem]]:
    """What reading gives, or None with its fault."""
    try:
        return read(), []
    except (DataError, OSError) as error:
        return None, [(name, str(error))]


def _note(checked: Checked, stage: str, found: Iterable[Problem]) -> None:
    checked.problems += [
        {"stage": stage, "file": name, "problem": problem} for name, problem in found
    ]
