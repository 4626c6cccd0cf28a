"""The way of one picture or pair through a run: every decision with its numbers, stage by stage."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import draws, storage
from pipeline.candidates import schema, urls
from pipeline.candidates.config import SourceConfig
from pipeline.curation import img2dataset_run
from pipeline.curation.curate import DUPLICATES
from pipeline.curation.explain import Asked, QueryCounts, explain
from pipeline.curation.img2dataset_config import Img2datasetConfig
from pipeline.curation.limits import PAIRS
from pipeline.curation.memory import CRAWL_LOG_FOLDER
from pipeline.errors import ConfigError
from pipeline.results import Result
from pipeline.shards import foreign, manifest
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.adopt_sample import adopt_sample, blocked_by, described
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import SCHEMA as KEEP_LIST
from pipeline.shards.writer import REJECTS_INDEX, read_table

SAMPLE_COLUMNS = ["key", "url", "captions", "uids", "width", "height", "original_width"]
SAMPLE_COLUMNS += ["original_height", "phash", "cluster", "licence"]


def trace(
    results: Mapping[str, Result],
    source: SourceConfig | None,
    *,
    url: str | None = None,
    uid: str | None = None,
    key: str | None = None,
) -> Iterator[dict[str, Any]]:
    """What became of an address, a pair or a sample; one object per decision.

    Args:
        results: Finished stages by name, ``curate`` or ``balance`` among them.
        source: The run's candidates; None where shards were adopted.
        url: Address of a picture, in any spelling.
        uid: Id of a pair.
        key: Key of a sample.

    Raises:
        ConfigError: The run knows nothing of it.
    """
    curated = results.get("curate")
    place = _place(curated, url=url, uid=uid, key=key) if curated else None
    is_adopted = curated is not None and manifest.ADOPTED in curated.content
    asked = _asked(url, uid, key if place is None else place[1]["key"], is_adopted=is_adopted)
    found = list(_balanced(results, source, asked)) if "balance" in results else []
    if curated is not None:
        found += _curated(curated, place, asked, found)
    if curated is not None and place is not None:
        found += _later(results, CuratedDataset(curated), place[0], place[1]["key"])
    if not found:
        raise ConfigError(
            f"{url or uid or key}: neither a candidate nor a sample of this run; give an address, "
            "a uid or a key as they stand in its tables"
        )
    yield from found


def rejects(curated: Result, reason: str | None, seed: int, limit: int) -> Iterator[dict[str, Any]]:
    """Random rejects of one drop reason, or of each.

    Args:
        curated: The finished stage.
        reason: A drop reason of its funnel; None for all.
        seed: Another one shows others, as far as more were kept.
        limit: Rejects per reason.

    Raises:
        ConfigError: Nothing fell for that reason.
    """
    dropped = curated.content["funnel"]["dropped"]
    if reason is not None and reason not in dropped:
        raise ConfigError(
            f"--rejects {reason}: nothing fell for that reason, only for {', '.join(dropped)}"
        )
    folder = storage.join(curated.uri, "rejects")
    rows = read_table(storage.join(folder, REJECTS_INDEX)).to_pylist()
    rows.sort(key=lambda row: (row["drop_reason"], draws.hash64(seed, row["uid"])))
    shown: dict[str, int] = {}
    for row in rows:
        name = row["drop_reason"]
        shown[name] = shown.get(name, 0) + 1
        if reason in (None, name) and shown[name] <= limit:
            picture = storage.join(folder, name, f"{row['key']}.jpg")
            has = storage.exists(picture)
            yield {**row, "num_dropped": dropped[name], "picture": picture if has else None}


def _asked(url: str | None, uid: str | None, key: str | None, *, is_adopted: bool) -> Asked:
    if uid is not None:
        return Asked(uid=uid)
    if key is not None:
        return Asked(key=key)
    address = urls.canonical(str(url))
    if address is None and not is_adopted:  # a stated address stays as it is
        raise ConfigError(f"--url {url!r} is no http or https address")
    address = address or str(url)
    return Asked(key=urls.url_id(address), url=address)


def _balanced(
    results: Mapping[str, Result], source: SourceConfig | None, asked: Asked
) -> Iterator[dict[str, Any]]:
    balanced = results["balance"]
    columns = [schema.UID, schema.URL_ID, schema.URL, schema.CAPTION, schema.QUERY_IDS]
    rows: list[dict[str, Any]] = []
    for entry in balanced.content[PAIRS]:
        with storage.open_for_read(storage.join(balanced.uri, PAIRS, entry["name"])) as file:
            rows += pq.read_table(file, columns=columns, filters=asked.filters()).to_pylist()
    counts = QueryCounts(balanced)
    for row in rows:
        queries = counts.of(row.pop(schema.QUERY_IDS))
        yield {"stage": "balance", **row, "kept": True, "queries": queries}
    if not rows and source is not None:
        yield from explain(asked, source, results["queries"], balanced)


def _place(
    curated: Result, *, url: str | None, uid: str | None, key: str | None
) -> tuple[int, dict[str, Any]] | None:
    """Number of the shard and row of the sample that is meant; None where none was kept."""
    dataset = CuratedDataset(curated)
    address = None if url is None else urls.canonical(url) or url
    for shard in range(len(dataset.shards)):
        table = dataset.rows(shard, SAMPLE_COLUMNS)
        if uid is not None:
            lists = table["uids"].combine_chunks()
            holds = pc.call_function("equal", [lists.flatten(), pa.scalar(uid)])
            rows = pc.call_function("list_parent_indices", [lists]).filter(holds)
            table = table.take(rows)
        else:
            column, value = ("url", address) if key is None else ("key", key)
            table = table.filter(pc.field(column) == value)
        if table.num_rows:
            return shard, table.slice(0, 1).to_pylist()[0]
    return None


def _curated(
    curated: Result,
    place: tuple[int, dict[str, Any]] | None,
    asked: Asked,
    balanced: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    key = asked.key or next((row[schema.URL_ID] for row in balanced if schema.URL_ID in row), None)
    if key is not None:
        yield from _crawled(curated, key)
        for row in img2dataset_run.what_it_says(curated.uri, key):
            kept = row["status"] == img2dataset_run.SUCCESS
            yield {"stage": "curate", "step": "img2dataset", "kept": kept, **row}
    if place is not None:
        name = curated.content["shards"][place[0]]["name"]
        yield {"stage": "curate", "kept": True, "shard": name, **place[1]}
    elif manifest.ADOPTED in curated.content:
        yield from _adopted(curated, asked)
    elif key is not None:
        yield from _duplicate(curated, key)


def _crawled(curated: Result, key: str) -> Iterator[dict[str, Any]]:
    """What happened on the network; where it ended there, the limits that were in force."""
    folder = storage.join(curated.uri, CRAWL_LOG_FOLDER)
    config = curated.manifest["config"]
    for name in storage.list_names(folder):
        with storage.open_for_read(storage.join(folder, name)) as file:
            for row in pq.read_table(file, filters=[("key", "=", key)]).to_pylist():
                kept = row["drop_reason"] is None
                limits = {} if kept else {part: config[part] for part in _LIMITS if part in config}
                yield {"stage": "curate", "step": "crawl", "kept": kept, **row, **limits}


_LIMITS = ("decode", "filters")


def _duplicate(curated: Result, key: str) -> Iterator[dict[str, Any]]:
    uri = storage.join(curated.uri, DUPLICATES)
    if not storage.exists(uri):
        return
    table = read_table(uri)
    for row in table.filter(pc.field("key") == key).to_pylist():
        leader = _place(curated, url=None, uid=None, key=row["cluster"])
        numbers = {}
        if leader is not None:
            differing = (int(row["phash"], 16) ^ int(leader[1]["phash"], 16)).bit_count()
            numbers = {"hamming": differing, "leader_url": leader[1]["url"]}
        limits = {"dedup": curated.manifest["config"].get("dedup")}
        yield {"stage": "curate", "kept": False, **row, **numbers, **limits}


def _adopted(curated: Result, asked: Asked) -> Iterator[dict[str, Any]]:
    """Read the tars again until the sample is met that was dropped; damaged ones were left out."""
    config = _adopting(curated.manifest["config"])
    damaged = curated.content[manifest.ADOPTED]["damaged"]
    for name, uri in manifest.places(curated.uri).items():
        if name in damaged:
            continue
        with storage.open_for_read(uri) as file:
            for stored in foreign.read_foreign(file, uri):
                row = described(stored, name, config)
                if asked.is_sample(row):
                    found = adopt_sample(stored, name, config, blocked_by(config))
                    size = found.image.size if found.image else None
                    told = {"drop_reason": found.drop_reason, "size": size, **row}
                    yield {"stage": "curate", "kept": False, "shard": name, **told}
                    return


def _adopting(stated: Mapping[str, Any]) -> AdoptConfig:
    """How the tars of a data set were read, whoever wrote them."""
    if "trusts_every_address" in stated:
        return Img2datasetConfig.model_validate(stated).adopting("-")
    return AdoptConfig.model_validate({**stated, "path": "-"})


def _later(
    results: Mapping[str, Result], dataset: CuratedDataset, shard: int, key: str
) -> Iterator[dict[str, Any]]:
    if "embed" in results:
        table = EmbeddedDataset(results["embed"], dataset).table(
            shard, ["key", "similarity", "z_img", "text_tokens"]
        )
        row = table.filter(pc.field("key") == key).to_pylist()[0]
        norm = float(np.linalg.norm(np.asarray(row["z_img"], np.float32)))
        tokens = [len(ids) for ids in row["text_tokens"]]
        numbers = {"similarity": row["similarity"], "z_img_norm": norm, "num_tokens": tokens}
        yield {"stage": "embed", **numbers}
    if "select" in results:
        config = results["select"].manifest["config"].get("profiles", {})
        for name, entry in results["select"].content["profiles"].items():
            with storage.open_for_read(storage.join(results["select"].uri, entry["name"])) as file:
                columns = KEEP_LIST.names
                rows = pq.read_table(file, columns=columns, filters=[("key", "=", key)])
            for row in rows.to_pylist():
                yield {"stage": "select", "profile": name, **row, "limits": config.get(name)}
