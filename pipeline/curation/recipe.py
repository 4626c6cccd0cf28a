"""Curation as a recipe: match, count, balance, crawl, find duplicates, write shards.

Each step is one Ray Data graph over partitions; its rows are small manifests, never pixels. A
partition's manifest is written when all its files are there, so the same call after any death goes
on with the partitions that have none. The order of the steps:

======  =====================  ===================================================================
step    over                   from → to
======  =====================  ===================================================================
match   parts of the source    candidates → matched pairs, sorted into crawl buckets
count   buckets                pairs → distinct pairs; counts per query and per caption
merge   everything (driver)    counts → repeated captions, pairs per query
rank    buckets (mode cap)     pairs → ranks, merged into one threshold per query
crawl   buckets                balance → fetch → decode → filter → pool: one fused task
judge   everything (driver)    hashes of the pool → duplicate groups, numbers of the shards
write   buckets                pool → shards and views
======  =====================  ===================================================================
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa

from pipeline import storage
from pipeline.candidates import schema, sources
from pipeline.candidates.config import UrlTableConfig, WarcConfig
from pipeline.curation.config import CurateConfig
from pipeline.curation.pictures import crawl_bucket, judge, write_bucket
from pipeline.curation.text import (
    Manifest,
    Plan,
    count_bucket,
    match_part,
    merge_counts,
    merge_ranks,
    query_counts,
    rank_bucket,
)
from pipeline.errors import DataError
from pipeline.images import rejects as rejected
from pipeline.partitions import map_partitions
from pipeline.progress import Bar, Progress
from pipeline.queries import balancing, query_list
from pipeline.results import Result, StageOutput
from pipeline.shards import manifest
from pipeline.shards.writer import publish_table, read_table

QUERY_LIST = "queries.parquet"
"""Where the queries stage keeps its list."""
SUMMARY = "curated.json"
"""Content and work intervals, written before working files are deleted."""

Step = Callable[[Plan, int], Manifest]


def curate(
    config: CurateConfig,
    source: UrlTableConfig | WarcConfig,
    queries: Result,
    uri: str,
    progress: Progress,
) -> StageOutput:
    """Turn candidates into deduplicated shards. Ray is open already.

    Args:
        config: Settings of curation.
        source: Where the candidates are.
        queries: The finished queries stage.
        uri: Folder of the stage; unfinished work found there is continued.
        progress: Where people see how far it is.

    Returns:
        Content with ``shards, views, funnel, num_samples, damage``, and the work's intervals.

    Raises:
        DataError: A pair is unaccounted for, or an input does not match its manifest.
    """
    summary = storage.join(uri, SUMMARY)
    if storage.exists(summary):
        _remove_working_files(config, uri)
        return _output(storage.read_json(summary))
    storage.remove_temporary(uri)
    plan = _plan(config, source, queries, uri)
    num_buckets = config.shards.num_partitions
    steps = {
        "match": _on_each(plan, "match", match_part, len(plan.parts), progress),
        "count": _on_each(plan, "count", count_bucket, num_buckets, progress),
        "merge": [_once(plan, "merge", merge_counts)],
    }
    if config.balance.mode == "cap":
        steps["rank"] = _on_each(plan, "rank", rank_bucket, num_buckets, progress)
        steps["merge_ranks"] = [_once(plan, "merge_ranks", merge_ranks)]
    steps["crawl"] = _on_each(plan, "crawl", crawl_bucket, num_buckets, progress)
    steps["judge"] = [_once(plan, "judge", judge)]
    steps["write"] = _on_each(plan, "write", write_bucket, num_buckets, progress)
    content = _content(plan, steps)
    if content["num_samples"] == 0:
        _forget_crawl(uri)
        raise DataError(
            f"none of {content['funnel']['candidates']} candidates was kept: "
            f"{content['funnel']['dropped']}; correct the cause and run the same command again, "
            "which crawls again"
        )
    _publish_rejects(plan)
    _publish_query_counts(plan)
    storage.remove_temporary(uri)  # of workers that were killed and replaced
    work = [each["work"] for done in steps.values() for each in done]
    storage.write_json(summary, {"content": content, "work": work})
    _remove_working_files(config, uri)
    return _output(storage.read_json(summary))


def _remove_working_files(config: CurateConfig, uri: str) -> None:
    if not config.execution.keep_pool:
        _remove(storage.join(uri, "work"))
        _remove(storage.join(uri, "pool"))


def _forget_crawl(uri: str) -> None:
    """So that the next call crawls again instead of taking an empty result for finished."""
    for step in ("crawl", "judge", "write"):
        _remove(storage.join(uri, "work", "done", step))


def _plan(
    config: CurateConfig, source: UrlTableConfig | WarcConfig, queries: Result, uri: str
) -> Plan:
    return Plan(
        config=config,
        source=source,
        parts=tuple(sources.plan(source)),
        queries_uri=storage.join(queries.uri, QUERY_LIST),
        profile=queries.manifest["config"]["profile"],
        uri=uri,
    )


def _on_each(plan: Plan, name: str, step: Step, total: int, progress: Progress) -> list[Manifest]:
    """Run a step on every partition that has not recorded it; manifests in partition order."""
    folder = storage.join(plan.uri, "work", "done", name)
    done: dict[int, Manifest] = {}
    with progress.stage(name, total=total, unit="partitions") as bar:
        for file in storage.list_names(folder):
            index = int(file.removesuffix(".json"))
            done[index] = storage.read_json(storage.join(folder, file))
            _advance(bar, done[index])
        for index, finished in _run(plan, name, step, [i for i in range(total) if i not in done]):
            done[index] = finished
            _advance(bar, finished)
    return [done[index] for index in range(total)]


def _run(plan: Plan, name: str, step: Step, missing: list[int]) -> Iterator[tuple[int, Manifest]]:
    rows = [{"index": index} for index in missing]
    for row in map_partitions(partial(_task, plan=plan, name=name, step=step), rows):
        yield row["index"], row["manifest"]


def _task(row: dict[str, Any], plan: Plan, name: str, step: Step) -> dict[str, Any]:
    """One row of a graph: the number of a partition becomes its manifest."""
    index = row["index"]
    return {"index": index, "manifest": _record(plan, name, index, partial(step, plan))}


def _once(plan: Plan, name: str, step: Callable[[Plan], Manifest]) -> Manifest:
    """Run a step of the driver unless it is recorded."""
    recorded = plan.work(f"done/{name}", 0, "json")
    if storage.exists(recorded):
        return storage.read_json(recorded)
    return _record(plan, name, 0, lambda _: step(plan))


def _record(plan: Plan, name: str, index: int, step: Callable[[int], Manifest]) -> Manifest:
    """Do a partition's work and write its manifest last."""
    started = time.time()
    finished = step(index)
    finished = {**finished, "work": [started, time.time()]}
    storage.write_json(plan.work(f"done/{name}", index, "json"), finished)
    return finished


def _advance(bar: Bar, finished: Manifest) -> None:
    bar.advance(1, kept=finished.get("kept", 0), dropped=sum(finished["dropped"].values()))


def _content(plan: Plan, steps: dict[str, list[Manifest]]) -> dict[str, Any]:
    """What follows from the inputs alone; every candidate is accounted for."""
    everything = [finished for done in steps.values() for finished in done]
    written = steps["write"]
    candidates = sum(finished["candidates"] for finished in steps["match"])
    kept = sum(finished["kept"] for finished in written)
    dropped = manifest.merge_dropped(finished["dropped"] for finished in everything)
    views = {
        str(side): [view[str(side)] for finished in written for view in finished["views"]]
        for side in plan.config.shards.views_px
    }
    return {
        "shards": [entry for finished in written for entry in finished["shards"]],
        "views": views,
        "funnel": manifest.funnel(candidates, kept, dropped),
        "num_samples": sum(finished["num_samples"] for finished in written),
        "damage": [line for finished in steps["match"] for line in finished["damage"]],
    }


def _publish_rejects(plan: Plan) -> None:
    """``rejects/<reason>/<key>.jpg`` and ``rejects/index.parquet``."""
    folder = storage.join(plan.uri, "work", "rejects")
    tables = [read_table(storage.join(folder, name)) for name in storage.list_names(folder)]
    table = rejected.merge(tables, plan.config.shards.rejects_per_reason)
    for row in table.to_pylist():
        if row["thumbnail"] is not None:
            name = f"{row['key']}.jpg"
            picture = storage.join(plan.uri, "rejects", row["drop_reason"], name)
            storage.write_bytes(picture, row["thumbnail"])
    index = storage.join(plan.uri, "rejects", "index.parquet")
    publish_table(index, table.drop_columns(["thumbnail"]))


def _publish_query_counts(plan: Plan) -> None:
    """``queries_balance.parquet``: pairs per query before balancing and in the shards."""
    queries = query_list.read(plan.queries_uri).queries
    buckets = range(plan.config.shards.num_partitions)
    tables = [read_table(plan.work("after", bucket)) for bucket in buckets]
    table = pa.table(
        {
            schema.QUERY: queries,
            "count_before": query_counts(plan),
            "count_after": balancing.merge_counts(tables, len(queries)),
        }
    )
    publish_table(storage.join(plan.uri, "queries_balance.parquet"), table)


def _output(summary: dict[str, Any]) -> StageOutput:
    work = [(float(start), float(end)) for start, end in summary["work"]]
    return StageOutput(summary["content"], work)


def _remove(uri: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
