"""Score: shards and embeddings → a table of numbers per shard, and pairs of semantic duplicates.

Expensive, and done once: profiles then choose from the numbers without opening an embedding. The
order of the steps, those of evaluation sets and duplicates only where they are asked for:

===============  ==================  ==============================================================
step             over                from → to
===============  ==================  ==============================================================
evaluation sets  chunks of pictures  decode, hash, embed → a table per set
score            shards              table, embeddings → scores; embeddings of drawn samples
fit              driver              drawn samples → centroids of clusters
assign           shards              embeddings → buckets of clusters
pairs            buckets             clusters → pairs by range of their first row
merge            driver              ranges → one sorted table
===============  ==================  ==============================================================
"""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.curation.exchange import read_ahead
from pipeline.errors import ConfigError, DataError
from pipeline.partitions import Row
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.selection import evaluation_sets, heads, histograms, semantic
from pipeline.selection.config import ScoreConfig
from pipeline.selection.numbers import as_float, best_similarity, phashes
from pipeline.selection.overlaps import overlaps
from pipeline.selection.plan import ScorePlan
from pipeline.shards import manifest
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.score_files import schema
from pipeline.shards.writer import publish_table, read_table
from pipeline.steps import Steps


def score(
    config: ScoreConfig, inputs: dict[str, Result], uri: str, progress: Progress
) -> StageOutput:
    """Score a data set. Ray is open already.

    Args:
        config: The stage's section.
        inputs: Finished ``curate`` and ``embed``, and ``clip`` where there are evaluation sets.
        uri: Folder of the stage; unfinished work found there is continued.
        progress: Where people see how far it is.

    Returns:
        Content with ``scores, columns, histograms, evaluation_sets, semantic``, and the work's
        intervals.

    Raises:
        ConfigError: A head or a column does not fit the data set.
        DataError: A file is damaged, or an evaluation set holds no picture.
    """
    plan = ScorePlan(config, inputs["curate"], inputs["embed"], inputs.get("clip"), uri)
    _check(plan)
    steps = Steps(plan.folder, progress)
    sets = _evaluation_sets(plan, steps)
    done = steps.run("score", partial(score_shard, plan=plan), [{} for _ in plan.counts])
    found = None
    if config.semantic is not None:
        found, intervals = semantic.find_pairs(plan, config.semantic, progress)
    else:
        intervals = []
    content = {
        "scores": [row["entry"] for row in done],
        "columns": [*config.numeric_columns()],
        "num_samples": sum(plan.counts),
        "histograms": _histograms(plan, done),
        "evaluation_sets": sets,
        "semantic": found,
    }
    if not config.execution.keep_working_files:
        storage.remove_folder(plan.folder)
    return StageOutput(content, steps.intervals() + intervals)


def score_shard(row: Row, plan: ScorePlan) -> Row:
    """One shard → its score table and, for clusters, the embeddings of drawn samples.

    Args:
        row: ``number`` of the shard.
        plan: The stage's plan.
    """
    shard = int(row["number"])
    dataset = CuratedDataset(plan.curated)
    source = dataset.shards[shard]
    samples = dataset.rows(shard)
    embedded = EmbeddedDataset(plan.embedded, dataset).table(
        shard, ["key", "similarity", *(["z_img"] if plan.reads_vectors else [])]
    )
    if not embedded["key"].equals(samples["key"]):
        raise DataError(
            f"{source['name']}: its table and its embeddings hold other keys, or in another order; "
            "run embed again"
        )
    table = _table(plan, samples, embedded)
    if plan.config.semantic is not None:
        semantic.draw(plan, plan.config.semantic, shard, plan.vectors(embedded), table)
    sha256 = publish_table(plan.scores_uri(shard), table)
    entry = {"name": plan.scores_name(shard), "sha256": sha256, "num_samples": table.num_rows}
    entry |= {"shard": source["name"], "shard_sha256": source["sha256"]}
    values = {name: as_float(table[name]) for name in plan.counted_columns}
    extents = {name: histograms.extent(column) for name, column in values.items()}
    return {"entry": entry, "extents": extents}


def _table(plan: ScorePlan, samples: pa.Table, embedded: pa.Table) -> pa.Table:
    """The score rows of one shard."""
    config, num_rows = plan.config, samples.num_rows
    sides = np.minimum(samples["width"].to_numpy(), samples["height"].to_numpy())
    columns: dict[str, Any] = {name: samples[name] for name in ("key", "cluster", "url", "queries")}
    columns |= {"side_px": sides, "similarity": best_similarity(embedded["similarity"])}
    for name, head in sorted(config.heads.items()):
        columns[name] = heads.read_head(head.path)(plan.vectors(embedded))
    columns |= {name: as_float(samples[name]) for name in config.columns}
    columns |= dict.fromkeys(("overlap_set", "overlap_cosine", "overlap_bits"), pa.nulls(num_rows))
    if config.evaluation_sets:
        names = tuple(sorted(config.evaluation_sets))
        pictures = evaluation_sets.read_sets(plan.uri, names, plan.dim)
        found = overlaps(plan.vectors(embedded), phashes(samples["phash"]), pictures)
        columns["overlap_set"] = pa.array(names).take(pa.array(found.owner))
        columns |= {"overlap_cosine": found.cosine, "overlap_bits": found.bits}
    wanted = schema(config.numeric_columns())
    return pa.table({name: columns[name] for name in wanted.names}).cast(wanted)


def _check(plan: ScorePlan) -> None:
    """Refuse, before any work, heads and columns that do not fit.

    Raises:
        ConfigError: Names the head or column, and the remedy.
        DataError: The embeddings are of other shards.
    """
    dataset = CuratedDataset(plan.curated)
    embedded = EmbeddedDataset(plan.embedded, dataset)
    clip_sha256 = str(plan.embedded.content["clip_sha256"])
    for name, head in plan.config.heads.items():
        heads.check_head(f"score.heads.{name}", head.path, embedded.dim, clip_sha256)
    if not plan.config.columns or not dataset.shards:
        return
    table = manifest.parquet_name(dataset.shards[0]["name"])
    with storage.open_for_read(storage.join(manifest.folder(dataset.uri), table)) as file:
        there = pq.read_schema(file)
    for name in plan.config.columns:
        kind = there.field(name).type if name in there.names else None
        if kind is None or not (pa.types.is_primitive(kind) or pa.types.is_string(kind)):
            is_there = f"of type {kind}" if kind is not None else "not there"
            raise ConfigError(
                f"score.columns: {name!r} is {is_there} in the shards' tables; they have "
                f"{', '.join(there.names)}; name numeric columns that enrichers wrote or that "
                "were carried along"
            )


def _evaluation_sets(plan: ScorePlan, steps: Steps) -> dict[str, Any]:
    """The tables of all evaluation sets, made once."""
    if not plan.config.evaluation_sets:
        return {}
    tasks = evaluation_sets.chunks(plan.config.evaluation_sets)
    done = steps.run("evaluation sets", partial(embed_chunk, plan=plan), tasks)
    parts: dict[str, list[str]] = {name: [] for name in plan.config.evaluation_sets}
    damaged = dict.fromkeys(parts, 0)
    for number, (task, row) in enumerate(zip(tasks, done, strict=True)):
        parts[task["set"]].append(plan.work("pictures", number))
        damaged[task["set"]] += int(row["num_damaged"])
    publish = partial(evaluation_sets.publish_sets, plan.uri, parts, damaged)
    return steps.once("publish sets", publish)


def embed_chunk(row: Row, plan: ScorePlan) -> Row:
    """Pictures of one chunk of an evaluation set → a working table.

    Args:
        row: A task of ``evaluation_sets.chunks``, with its ``number``.
        plan: The stage's plan.
    """
    assert plan.clip is not None
    table, num_damaged = evaluation_sets.embed_chunk(row, plan.embedded, plan.curated, plan.clip)
    publish_table(plan.work("pictures", row["number"]), table)
    return {"num_damaged": num_damaged}


def _histograms(plan: ScorePlan, done: list[Row]) -> dict[str, Any]:
    """One pass over the score tables, which know their extents by now."""
    spans = {
        name: histograms.merge_extents(row["extents"][name] for row in done)
        for name in plan.counted_columns
    }
    counted = {name: histograms.Histogram(span) for name, span in spans.items()}
    places = [storage.join(plan.uri, row["entry"]["name"]) for row in done]
    read = partial(read_table, columns=[*plan.counted_columns])
    for table in read_ahead(read, places):
        for name, histogram in counted.items():
            histogram.add(as_float(table[name]))
    return {name: histogram.as_json() for name, histogram in counted.items()}
