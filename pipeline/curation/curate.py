"""The stage ``curate``: balanced pairs → deduplicated shards and views.

Each step is one Ray Data graph over the buckets; its rows are small manifests, never pixels. The
order of the steps:

=====  ====================  ======================================================================
step   over                  from → to
=====  ====================  ======================================================================
crawl  buckets               pairs → fetch → decode → filter → pool: one fused task
judge  everything (driver)   hashes of the pool → duplicate groups, numbers of the shards
write  buckets               pool → shards and views
=====  ====================  ======================================================================
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.candidates.config import FolderConfig, SourceConfig
from pipeline.curation import costs
from pipeline.curation.balance import REJECTS
from pipeline.curation.config import CurateConfig
from pipeline.curation.limits import PAIRS
from pipeline.curation.match import Manifest
from pipeline.curation.pictures import PicturePlan, crawl_bucket, judge, write_bucket
from pipeline.errors import DataError
from pipeline.images import rejects as rejected
from pipeline.partitions import Row
from pipeline.progress import Progress
from pipeline.queries import balancing, yields
from pipeline.results import Result, StageOutput
from pipeline.shards import manifest
from pipeline.shards.writer import publish_table, read_table
from pipeline.steps import Steps

IN_SHARDS = "in_shards"
"""Column that is added to the queries' counts: pairs in the shards that contain the query."""


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
        Content with ``shards, views, funnel, num_samples``, and the work's intervals.

    Raises:
        DataError: A pair is unaccounted for, an input does not match its manifest, or nothing is
            left.
    """
    if isinstance(source, FolderConfig):
        config = _reading_from(config, storage.absolute(source.path))
    plan = PicturePlan(config, balanced.uri, balanced.content[PAIRS], uri)
    if not costs.recorded(uri):
        storage.remove_temporary(uri)
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
        _publish_rejects(plan)
        _publish_query_counts(plan)
        storage.remove_temporary(uri)  # of workers that were killed and replaced
        costs.record(uri, content, done, steps.spent)
    if not config.execution.keep_working_files:
        storage.remove_folder(plan.folder)
        storage.remove_folder(storage.join(uri, "pool"))
    return costs.output(uri)


def _reading_from(config: CurateConfig, root: str) -> CurateConfig:
    """The settings of a run whose pictures lie in a folder."""
    execution = config.crawl.execution.model_copy(update={"local_root": root})
    crawl = config.crawl.model_copy(update={"execution": execution})
    return config.model_copy(update={"crawl": crawl})


def _make_shards(plan: PicturePlan, steps: Steps) -> dict[str, list[Manifest]]:
    buckets = [{}] * plan.num_buckets
    return {
        "crawl": steps.run("crawl", partial(_task, plan=plan, step=crawl_bucket), buckets),
        "judge": [steps.once("judge", partial(judge, plan))],
        "write": steps.run("write", partial(_task, plan=plan, step=write_bucket), buckets),
    }


def _task(row: Row, plan: PicturePlan, step: Callable[[PicturePlan, int], Manifest]) -> Manifest:
    return step(plan, row["number"])


def _forget_crawl(plan: PicturePlan) -> None:
    """So that the next call crawls again instead of taking an empty result for finished."""
    storage.remove_folder(storage.join(plan.folder, "done"))


def _content(
    plan: PicturePlan, balanced: Result, done: Mapping[str, Sequence[Manifest]]
) -> dict[str, Any]:
    """What follows from the inputs alone; every candidate is accounted for."""
    written, funnel = done["write"], balanced.content["funnel"]
    here = (finished["dropped"] for each in done.values() for finished in each)
    dropped = manifest.merge_dropped([funnel["dropped"], *here])
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
    }


def _publish_rejects(plan: PicturePlan) -> None:
    """``rejects/<reason>/<key>.jpg`` and ``rejects/index.parquet``, those of balancing included."""
    folder = plan.file("rejects")
    files = [storage.join(folder, name) for name in storage.list_names(folder)]
    tables = map(read_table, [storage.join(plan.balanced_uri, REJECTS), *files])
    table = rejected.merge(tables, plan.config.shards.rejects_per_reason)
    for row in table.to_pylist():
        if row["thumbnail"] is not None:
            name = f"{row['key']}.jpg"
            picture = storage.join(plan.uri, "rejects", row["drop_reason"], name)
            storage.write_bytes(picture, row["thumbnail"])
    index = storage.join(plan.uri, "rejects", "index.parquet")
    publish_table(index, table.drop_columns(["thumbnail"]))


def _publish_query_counts(plan: PicturePlan) -> None:
    """``query_counts.parquet``: what each query found, owns, keeps, and has in the shards."""
    table = read_table(storage.join(plan.balanced_uri, yields.FILE))
    after = (read_table(plan.work("after", bucket)) for bucket in range(plan.num_buckets))
    counts = pa.array(balancing.merge_counts(after, table.num_rows))
    publish_table(storage.join(plan.uri, yields.FILE), table.append_column(IN_SHARDS, counts))
