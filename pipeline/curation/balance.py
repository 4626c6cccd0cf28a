"""The stage ``balance``: candidates and a query list → the balanced pairs that shall be crawled.

Each step is one Ray Data graph over partitions; its rows are small manifests, never texts. The
order of the steps:

==========  =====================  ===============================================================
step        over                   from → to
==========  =====================  ===============================================================
match       parts of the source    candidates → matched pairs, sent to buckets
gather      buckets                pairs → distinct pairs; counts per caption, sent to ranges
repeats     ranges of captions     counts → captions on too many addresses, sent to buckets
count       buckets                pairs → pairs without those, counts per query
merge       everything (driver)    counts → pairs per query
rank        buckets (mode cap)     pairs → ranks, sent to ranges
thresholds  ranges of queries      ranks → the highest rank that a query keeps; merged (driver)
keep        buckets                pairs → those that stay
==========  =====================  ===============================================================
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline import storage
from pipeline.candidates import languages, schema, sources
from pipeline.candidates.config import SourceConfig
from pipeline.curation import costs, exchange
from pipeline.curation.config import BalanceStageConfig
from pipeline.curation.limits import (
    PAIRS,
    add_up,
    find_thresholds,
    keep_bucket,
    merge_counts,
    merge_thresholds,
    query_counts,
    rank_bucket,
)
from pipeline.curation.match import (
    Manifest,
    Plan,
    count_bucket,
    find_repeats,
    gather_bucket,
    match_part,
)
from pipeline.errors import DataError
from pipeline.images import rejects as rejected
from pipeline.partitions import Row
from pipeline.progress import Progress
from pipeline.queries import query_list, yields
from pipeline.results import Result, StageOutput
from pipeline.shards import manifest
from pipeline.shards.writer import publish_table, read_table
from pipeline.steps import Steps

REJECTS = "rejects.parquet"
"""Rejected pairs that are kept for inspection, as ``images.rejects.REJECT``."""
NUM_DAMAGE_TOLD = 20


def balance(
    config: BalanceStageConfig,
    source: SourceConfig,
    queries: Result,
    uri: str,
    progress: Progress,
) -> StageOutput:
    """Choose the pairs that shall be crawled. Ray is open already.

    Args:
        config: Limits, caption filters and the number of buckets.
        source: Where the candidates are.
        queries: The finished queries stage.
        uri: Folder of the stage; unfinished work found there is continued.
        progress: Where people see how far it is.

    Returns:
        Content with ``pairs, funnel, queries, sample, damage, num_files, num_damaged_files``, and
        the work's intervals.

    Raises:
        ConfigError: A language is unknown.
        DataError: A pair is unaccounted for, an input does not match its manifest, or too many
            files are damaged.
    """
    languages.check(config.captions)
    plan = Plan(
        config=config.for_sample(source.sample),
        source=source,
        parts=tuple(sources.plan(source)),
        queries_uri=storage.join(queries.uri, query_list.FILE),
        profile=queries.manifest["config"]["profile"],
        uri=uri,
    )
    if not costs.recorded(uri):
        storage.remove_temporary(uri)
        steps = Steps(storage.join(uri, "work"), progress)
        done = choose_pairs(plan, steps, progress)
        content = _content(plan, done)
        if content["funnel"]["kept"] == 0:
            raise DataError(
                f"no pair is left of {content['funnel']['candidates']} candidates: "
                f"{content['funnel']['dropped']}; give other queries or looser caption filters"
            )
        _publish_rejects(plan)
        storage.remove_temporary(uri)  # of workers that were killed and replaced
        costs.record(uri, content, done, steps.spent)
    if not config.execution.keep_working_files:
        storage.remove_folder(storage.join(uri, "work"))
    return costs.output(uri)


def choose_pairs(plan: Plan, steps: Steps, progress: Progress) -> dict[str, list[Manifest]]:
    """All steps; the manifests of each."""
    parts, buckets = [{}] * len(plan.parts), [{}] * plan.num_buckets
    done = {"match": steps.run("match", partial(_task, plan=plan, step=match_part), parts)}
    _tell_damage(plan, steps, done["match"], progress)

    def on_buckets(name: str, step: Callable[[Plan, int], Manifest]) -> None:
        done[name] = steps.run(name, partial(_task, plan=plan, step=step), buckets)

    on_buckets("gather", gather_bucket)
    on_buckets("repeats", find_repeats)
    on_buckets("count", count_bucket)
    done["merge"] = [steps.once("merge", partial(merge_counts, plan))]
    if plan.config.mode == "cap":
        on_buckets("rank", rank_bucket)
        on_buckets("thresholds", find_thresholds)
        done["merge_thresholds"] = [steps.once("merge_thresholds", partial(merge_thresholds, plan))]
    on_buckets("keep", keep_bucket)
    return done


def _task(row: Row, plan: Plan, step: Callable[[Plan, int], Manifest]) -> Manifest:
    return step(plan, row["number"])


def _tell_damage(plan: Plan, steps: Steps, matched: list[Manifest], progress: Progress) -> None:
    """Name what could not be read; stop where it is too much, before anything is crawled."""
    damage = [each["damage"] for each in matched]
    lines = [line for found in damage for line in found]
    for line in lines[:NUM_DAMAGE_TOLD]:
        progress.say(f"damaged: {line}")
    if len(lines) > NUM_DAMAGE_TOLD:
        progress.say(f"damaged: {len(lines) - NUM_DAMAGE_TOLD} more places")
    try:
        sources.count_damage(plan.source, plan.parts, damage)
    except DataError:  # whoever repairs them wants them read again
        steps.forget("match", [part for part, found in enumerate(damage) if found])
        raise


def _content(plan: Plan, done: Mapping[str, Sequence[Manifest]]) -> dict[str, Any]:
    """What follows from the inputs alone; every candidate is accounted for."""
    candidates = sum(finished["candidates"] for finished in done["match"])
    kept = sum(finished["kept"] for finished in done["keep"])
    everything = (finished["dropped"] for each in done.values() for finished in each)
    damage = [finished["damage"] for finished in done["match"]]
    return {
        PAIRS: [finished["file"] for finished in done["keep"]],
        "funnel": manifest.funnel(candidates, kept, manifest.merge_counts(everything)),
        "queries": {**_publish_yields(plan), "unmatched_share": _unmatched_share(done["match"])},
        "sample": plan.source.sample,
        "damage": [line for lines in damage for line in lines],
        **sources.count_damage(plan.source, plan.parts, damage),
    }


def _unmatched_share(matched: Sequence[Manifest]) -> float:
    """Of the captions that were matched, the share that holds no query."""
    fallen = sum(finished["dropped"].get(schema.NO_QUERY, 0) for finished in matched)
    return fallen / max(1, fallen + sum(finished["kept"] for finished in matched))


def _publish_yields(plan: Plan) -> dict[str, Any]:
    """``query_counts.parquet``: what each query found, owns and keeps; returns its facts."""
    listed = query_list.read(plan.queries_uri).table
    is_cap = plan.config.mode == "cap"
    table = yields.table(
        listed,
        matched=query_counts(plan),
        owned=add_up(plan, "owned") if is_cap else None,
        kept=add_up(plan, "kept"),
    )
    publish_table(storage.join(plan.uri, yields.FILE), table)
    return yields.facts(table, plan.config)


def _publish_rejects(plan: Plan) -> None:
    folder = storage.join(plan.uri, "work", "rejects")
    files = [storage.join(folder, name) for name in storage.list_names(folder)]
    table = rejected.merge(exchange.read_ahead(read_table, files), plan.config.rejects_per_reason)
    publish_table(storage.join(plan.uri, REJECTS), table)
