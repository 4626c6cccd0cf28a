"""The stage ``curate``: balanced pairs → deduplicated shards and views.

Each step is one Ray Data graph; its rows are small manifests, never pixels. The order of the steps:

==========  ====================  =================================================================
step        over                  from → to
==========  ====================  =================================================================
remembered  everything (driver)   ledger and earlier crawls → portions of their tables
recall      portions              what is remembered → the buckets that it is about
crawl       buckets               pairs → fetch → decode → filter → pool: one fused task
retry-1 …   buckets               what failed in a way that may pass → pool; only where there is any
enrich      buckets               pool → columns and drop reasons of installed enrichers, if any
judge       everything (driver)   hashes of the pool → duplicate groups, numbers of the shards
write       buckets               pool → shards and views
==========  ====================  =================================================================
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.candidates.config import FolderConfig, SourceConfig
from pipeline.config import semantic
from pipeline.curation import clusters, costs, enrich, memory, passes
from pipeline.curation.balance import REJECTS
from pipeline.curation.config import CurateConfig
from pipeline.curation.crawling import (
    REMEMBERED,
    crawl_bucket,
    crawl_pass,
    list_remembered,
    send_remembered,
)
from pipeline.curation.enrich import enrich_bucket
from pipeline.curation.limits import PAIRS
from pipeline.curation.match import Manifest
from pipeline.curation.pictures import REJECTED, PicturePlan, judge, pool_table, write_bucket
from pipeline.errors import ConfigError, DataError
from pipeline.images import block_list
from pipeline.images import rejects as rejected
from pipeline.images.politeness import capacity, owner_budget
from pipeline.partitions import Row
from pipeline.progress import Progress
from pipeline.queries import balancing, yields
from pipeline.results import Result, StageOutput
from pipeline.shards import manifest
from pipeline.shards.writer import publish_rejects, publish_table, read_table
from pipeline.steps import Steps

DUPLICATES = "duplicates.parquet"
"""Pictures that fell because another one leads their group: whose, and by which hash."""
IN_SHARDS = "in_shards"
"""Column that is added to the queries' counts: pairs in the shards that contain the query."""
LEFT_OUT = "left_out"
NOT_ON_BUCKETS = (REMEMBERED, "recall", "judge")
"""Steps over something else than buckets; they drop nothing."""
NUM_SITE_FILES = 2
"""Requests to a host that are for no picture: robots.txt and tdmrep.json."""


def curate(
    config: CurateConfig,
    source: SourceConfig,
    balanced: Result,
    uri: str,
    progress: Progress,
) -> StageOutput:
    """Turn balanced pairs into deduplicated shards. Ray is open already.

    Args:
        config: Settings of the crawl, the filters and the shards.
        source: Where the pairs come from; a folder holds their pictures too.
        balanced: The finished balance stage.
        uri: Folder of the stage; unfinished work found there is continued.
        progress: Where people see how far it is.

    Returns:
        Content with ``shards, views, funnel, num_samples, clusters, left_out`` (pictures per host
        that was too large for the crawl), ``mapped_hosts`` (names that ``crawl.execution.resolve``
        answered instead of the web), ``buckets`` (kept and dropped pairs of each), and the work's
        intervals.

    Raises:
        ConfigError: No such column as ``crawl.sha256_column``, no such earlier crawl; an enricher
            or a block list is missing or does not fit.
        DataError: A pair is unaccounted for, an input does not match its manifest, or nothing is
            left.
    """
    memory.check_earlier(config.crawl)
    _check_sha256_column(config, source)
    stated = semantic(config)
    if isinstance(source, FolderConfig):
        config = _reading_from(config, storage.absolute(source.path))
    config = _with_absolute_lists(config)
    plan = PicturePlan(config, balanced.uri, balanced.content[PAIRS], uri)
    if not costs.recorded(uri):
        if config.enrichers:
            enrich.check(config.enrichers, plan.pairs(0).schema)
        storage.remove_temporary(uri)
        _publish_lineage(stated, balanced, uri)
        steps = Steps(plan.folder, progress)
        done = _make_shards(plan, steps)
        content = _content(plan, balanced, done)
        if content["num_samples"] == 0:
            _forget_crawl(plan)
            funnel = content["funnel"]
            raise DataError(
                f"none of {funnel['candidates']} candidates was kept: {funnel['dropped']}; correct "
                "the cause and run the same command again, which crawls again"
            )
        _tell_left_out(content[LEFT_OUT], plan, progress)
        _publish_rejects(plan, done)
        _publish_duplicates(plan)
        _publish_query_counts(plan)
        _publish_clusters(plan)
        storage.remove_temporary(uri)  # of workers that were killed and replaced
        costs.record(uri, content, done, steps.spent)
    if not config.execution.keep_working_files:
        storage.remove_folder(plan.folder)
    return costs.output(uri)


def _publish_lineage(stated: Mapping[str, Any], balanced: Result, uri: str) -> None:
    """What each shard will say of its origin: how pictures became samples, from which sources.

    How the crawl asked and how many other pairs were balanced does not enter: the data set's
    manifest names both, and the same samples make the same shard.
    """
    of_samples = {name: value for name, value in stated.items() if name != "crawl"}
    manifest.write_lineage(uri, of_samples, balanced.manifest["inputs"])


def _check_sha256_column(config: CurateConfig, source: SourceConfig) -> None:
    column, carried = config.crawl.sha256_column, getattr(source, "carried_columns", ())
    if column is not None and column not in carried:
        raise ConfigError(
            f"crawl.sha256_column={column!r} is not among candidates.carried_columns "
            f"({', '.join(carried) or 'none'}); list it there"
        )


def _reading_from(config: CurateConfig, root: str) -> CurateConfig:
    """The settings of a run whose pictures lie in a folder."""
    execution = config.crawl.execution.model_copy(update={"local_root": root})
    crawl = config.crawl.model_copy(update={"execution": execution})
    return config.model_copy(update={"crawl": crawl})


def _with_absolute_lists(config: CurateConfig) -> CurateConfig:
    return config.model_copy(update={"filters": block_list.absolute(config.filters)})


def _make_shards(plan: PicturePlan, steps: Steps) -> dict[str, list[Manifest]]:
    buckets = [{}] * plan.num_buckets
    remembered = steps.once(REMEMBERED, partial(list_remembered, plan))
    done = {REMEMBERED: [remembered]}

    def on_buckets(name: str, step: Callable[[PicturePlan, int], Manifest]) -> list[Manifest]:
        done[name] = steps.run(name, partial(_task, plan=plan, step=step), buckets)
        return done[name]

    if remembered["portions"]:
        done["recall"] = steps.run("recall", partial(_send, plan=plan), remembered["portions"])
    last = on_buckets(passes.FIRST, crawl_bucket)
    for number in range(1, plan.config.crawl.num_passes):
        if not any(each["num_pending"] for each in last):
            break
        last = on_buckets(passes.step_name(number), partial(crawl_pass, number=number))
    if plan.config.enrichers:
        on_buckets("enrich", enrich_bucket)
    done["judge"] = [steps.once("judge", partial(judge, plan))]
    on_buckets("write", write_bucket)
    return done


def _task(row: Row, plan: PicturePlan, step: Callable[[PicturePlan, int], Manifest]) -> Manifest:
    return step(plan, row["number"])


def _send(row: Row, plan: PicturePlan) -> Manifest:
    return send_remembered(plan, row["number"], row)


def _forget_crawl(plan: PicturePlan) -> None:
    """So that the next call crawls again instead of taking an empty result for finished."""
    storage.remove_folder(storage.join(plan.folder, "done"))


def _content(
    plan: PicturePlan, balanced: Result, done: Mapping[str, Sequence[Manifest]]
) -> dict[str, Any]:
    """What follows from the inputs alone; every candidate is accounted for."""
    written, funnel = done["write"], balanced.content["funnel"]
    here = (finished["dropped"] for each in done.values() for finished in each)
    dropped = manifest.merge_counts([funnel["dropped"], *here])
    kept = sum(finished["kept"] for finished in written)
    views = {
        str(side): [view[str(side)] for finished in written for view in finished["views"]]
        for side in plan.config.shards.views_px
    }
    return {
        "shards": [entry for finished in written for entry in finished["shards"]],
        "views": views,
        "funnel": manifest.funnel(funnel["candidates"], kept, dropped),
        "num_samples": sum(finished["num_samples"] for finished in written),
        LEFT_OUT: _left_out(done),
        "mapped_hosts": len(plan.config.crawl.execution.resolve),
        "buckets": _buckets(plan, done),
        "clusters": done["judge"][0]["clusters"],
        "query_list": balanced.manifest["inputs"].get("queries"),
        "licences": manifest.merge_counts(finished["licences"] for finished in written),
    }


def _buckets(plan: PicturePlan, done: Mapping[str, Sequence[Manifest]]) -> list[dict[str, Any]]:
    """Where the balanced pairs of each bucket went."""
    on_buckets = [done[name] for name in done if name not in NOT_ON_BUCKETS]
    return [
        {
            "kept": done["write"][bucket]["kept"],
            "dropped": manifest.merge_counts(each[bucket]["dropped"] for each in on_buckets),
        }
        for bucket in range(plan.num_buckets)
    ]


def _left_out(done: Mapping[str, Sequence[Manifest]]) -> dict[str, int]:
    """Hosts that were too large for the crawl, with the pictures it left out of each."""
    found = (finished.get(LEFT_OUT, {}) for each in done.values() for finished in each)
    return manifest.merge_counts(found)


def _tell_left_out(left_out: Mapping[str, int], plan: PicturePlan, progress: Progress) -> None:
    if not left_out:
        return
    crawl, largest = plan.config.crawl, max(left_out, key=lambda host: left_out[host])
    budget = owner_budget(crawl, plan.num_buckets)
    limit = max(1, capacity(crawl, budget, crawl.per_host_delay_s) - NUM_SITE_FILES)
    progress.say(
        f"left out {sum(left_out.values())} pictures of {len(left_out)} hosts that are too large "
        f"for crawl.per_host_budget and crawl.host_deadline_s (most, {left_out[largest]}, of "
        f"{largest}); raise these, or set balance.max_pictures_per_host={limit}, so that queries "
        "are filled with what can be fetched"
    )


def _publish_rejects(plan: PicturePlan, done: Mapping[str, Sequence[Manifest]]) -> None:
    """``rejects/<reason>/<key>.jpg`` and ``rejects/index.parquet``, those of balancing included."""
    results = [finished for each in done.values() for finished in each if REJECTED in finished]
    files = [plan.work("rejects", finished[REJECTED]) for finished in results]
    tables = map(read_table, [storage.join(plan.balanced_uri, REJECTS), *files])
    table = rejected.merge(tables, plan.config.shards.rejects_per_reason)
    publish_rejects(storage.join(plan.uri, "rejects"), table)


def _publish_duplicates(plan: PicturePlan) -> None:
    """``duplicates.parquet``: ``key, cluster, drop_reason, phash, uids``."""
    tables = []
    for bucket in range(plan.num_buckets):
        verdicts = read_table(plan.work("verdicts", bucket))
        pool = pool_table(plan, bucket, ["key", "phash", "uids"]).drop_columns("key")
        joined = pa.Table.from_arrays(
            [*verdicts.columns, *pool.columns], [*verdicts.column_names, *pool.column_names]
        )
        tables.append(joined.filter(verdicts.column("drop_reason").is_valid()))
    publish_table(storage.join(plan.uri, DUPLICATES), pa.concat_tables(tables))


def _publish_clusters(plan: PicturePlan) -> None:
    """``clusters.parquet``: the largest groups of duplicates, as ``clusters.SHOWN``."""
    tables = [read_table(plan.work("clusters", bucket)) for bucket in range(plan.num_buckets)]
    publish_table(storage.join(plan.uri, clusters.FILE), clusters.merge(tables))


def _publish_query_counts(plan: PicturePlan) -> None:
    """``query_counts.parquet``: what each query found, owns, keeps, and has in the shards."""
    table = read_table(storage.join(plan.balanced_uri, yields.FILE))
    after = (read_table(plan.work("after", bucket)) for bucket in range(plan.num_buckets))
    counts = pa.array(balancing.merge_counts(after, table.num_rows))
    publish_table(storage.join(plan.uri, yields.FILE), table.append_column(IN_SHARDS, counts))
