"""What a run's folders say, gathered into a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.curation import clusters
from pipeline.curation.pilot import Pilot
from pipeline.evaluation.evaluate import read_metrics
from pipeline.evaluation.gallery import GALLERY, read_gallery, thumbnail
from pipeline.evaluation.report import write_report
from pipeline.evaluation.report_data import (
    Curve,
    DuplicateGroups,
    Duplicates,
    Funnel,
    Headline,
    QueryCount,
    QueryYields,
    ReportData,
    StageCost,
    Thumbnail,
)
from pipeline.evaluation.score_tables import confusion_tables, headlines, score_tables
from pipeline.queries import yields
from pipeline.results import CIRCUMSTANCE, Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.writer import read_table

NUM_KEPT_SHOWN = 18
NUM_QUERIES_LISTED = 12
THUMBNAIL_PX = 104


@dataclass(frozen=True)
class RunDescription:
    """What the caller knows of a run and its folders do not."""

    title: str
    subtitle: str
    facts: list[tuple[str, str]]
    """Label and value: commit, seed, machine, addresses."""
    records: Mapping[str, Sequence[Mapping[str, Any]]]
    """Training metrics per stage: points with ``samples_seen`` and ``loss``, in order."""
    headlines: Sequence[Headline] = ()
    """Shown after those of the evaluation: wall time, peak memory."""
    pilot: Pilot | None = None
    """What the whole run would give, where this one was on a sample."""


def write_run_report(run: RunDescription, results: Mapping[str, Result], uri: str) -> None:
    """Gather a report from a run's finished stages and write it.

    Args:
        run: What the caller knows.
        results: Finished stages by name, in order; ``curate`` and ``evaluate`` fill most sections.
        uri: Destination file.
    """
    write_report(collect(run, results), uri)


def collect(run: RunDescription, results: Mapping[str, Result]) -> ReportData:
    """A report's data from a run's finished stages; sections of other stages are left out."""
    evaluated, curated = results.get("evaluate"), results.get("curate")
    balanced = results.get("balance")
    counted = curated or balanced
    content: Mapping[str, Any] = evaluated.content if evaluated else {}
    groups = read_metrics(content) if evaluated else {}
    curves = [curve(name, records) for name, records in run.records.items() if records]
    queries = query_yields(balanced, curated) if balanced else None
    gallery = read_gallery(storage.join(evaluated.uri, GALLERY)) if evaluated else []
    unmeasured = "; ".join(content.get("missing", {}).values())
    missing = {"scores": unmeasured} if unmeasured else {}
    return ReportData(
        title=run.title,
        subtitle=run.subtitle,
        facts=run.facts,
        headlines=[*headlines(groups, content), *_counts(counted), *run.headlines],
        score_tables=score_tables(groups, content),
        confusions=confusion_tables(content),
        gallery=gallery,
        curves=curves,
        pilot=run.pilot,
        funnel=funnel(counted) if counted else None,
        queries=queries,
        kept=kept_thumbnails(curated) if curated else [],
        dropped=dropped_thumbnails(curated) if curated else {},
        duplicates=duplicates(curated) if curated else None,
        costs=[cost for name, result in results.items() if (cost := stage_cost(name, result))],
        missing=missing,
    )


def curve(stage: str, records: Sequence[Mapping[str, Any]]) -> Curve:
    """The loss of one stage from its metric points; points without a loss are left out."""
    points = [record for record in records if "loss" in record]
    seen = [float(point["samples_seen"]) for point in points]
    note = f"{seen[-1]:,.0f} samples seen" if seen else ""
    return Curve(stage, seen, [float(point["loss"]) for point in points], note)


def funnel(counted: Result) -> Funnel:
    """Where the candidates went: of a finished curate or balance stage."""
    counts = counted.content["funnel"]
    return Funnel(
        candidates=int(counts["candidates"]),
        kept=int(counts["kept"]),
        dropped={reason: int(count) for reason, count in counts["dropped"].items()},
        num_samples=counted.content.get("num_samples"),
    )


def query_yields(balanced: Result, curated: Result | None) -> QueryYields:
    """What the queries found and keep, and what of it the shards hold once they are there."""
    counts = read_table(storage.join((curated or balanced).uri, yields.FILE))
    matched, kept = (counts.column(name).to_numpy() for name in (yields.MATCHED, yields.KEPT))
    num_found = int(np.count_nonzero(matched))
    by_frequency = np.argsort(-matched, kind="stable")
    listed = counts.take(by_frequency[: min(NUM_QUERIES_LISTED, num_found)]).to_pylist()
    return QueryYields(
        facts=balanced.content["queries"],
        before=[float(count) for count in matched[by_frequency][:num_found]],
        after=[float(count) for count in -np.sort(-kept)[:num_found]],
        most_frequent=[
            QueryCount(**{name: row.get(name) for name in QueryCount.__annotations__})
            for row in listed
        ],
    )


def kept_thumbnails(curated: Result, num_shown: int = NUM_KEPT_SHOWN) -> list[Thumbnail]:
    """The first kept samples of the first shards, with their first captions."""
    dataset = CuratedDataset(curated)
    view_px = min((side for side in dataset.views_px if side >= THUMBNAIL_PX // 2), default=None)
    found: list[Thumbnail] = []
    for shard in range(len(dataset.shards)):
        table = dataset.rows(shard, ["key", "captions"])
        captions = dict(zip(table["key"].to_pylist(), table["captions"].to_pylist(), strict=True))
        for key, encoded in dataset.pictures(shard, view_px).items():
            if len(found) >= num_shown:
                return found
            found.append(Thumbnail(thumbnail(encoded, THUMBNAIL_PX), captions[key][0]))
    return found


def dropped_thumbnails(curated: Result) -> dict[str, list[Thumbnail]]:
    """A few dropped samples per reason, where there was a picture to show."""
    uri = storage.join(curated.uri, "rejects", "index.parquet")
    if not storage.exists(uri):
        return {}
    found: dict[str, list[Thumbnail]] = {}
    for row in read_table(uri, ["drop_reason", "key", "caption"]).to_pylist():
        reason = row["drop_reason"]
        picture = storage.join(curated.uri, "rejects", reason, f"{row['key']}.jpg")
        if storage.exists(picture):
            image = thumbnail(storage.read_bytes(picture), THUMBNAIL_PX)
            found.setdefault(reason, []).append(Thumbnail(image, row["caption"]))
    return found


def duplicates(curated: Result) -> DuplicateGroups | None:
    """The largest groups of duplicates; None where there are none."""
    counts = curated.content.get("clusters", {"num_clusters": 0})
    if counts["num_clusters"] == 0:
        return None
    groups: dict[str, Duplicates] = {}
    for row in read_table(storage.join(curated.uri, clusters.FILE)).to_pylist():
        group = groups.setdefault(row["cluster"], Duplicates(row["size"], []))
        group.members.append(Thumbnail(thumbnail(row["thumbnail"], THUMBNAIL_PX), _member(row)))
    return DuplicateGroups(counts["num_clusters"], counts["num_pictures"], list(groups.values()))


def _member(row: Mapping[str, Any]) -> str:
    if row["drop_reason"] is None:
        return "kept"
    reason = row["drop_reason"].replace("_", " ")
    return f"{reason}, {row['num_bits']} bits of 64" if row["num_bits"] else reason


def stage_cost(name: str, result: Result) -> StageCost | None:
    """Time and memory of a stage from its circumstance; None where nothing was recorded."""
    uri = storage.join(result.uri, CIRCUMSTANCE)
    if not storage.exists(uri):
        return None
    facts = storage.read_json(uri)
    if "ended_s" not in facts:
        return None
    wall_s = float(facts["ended_s"]) - float(facts["started_s"])
    peak = facts.get("peak_pss_bytes")
    return StageCost(name, wall_s, None if peak is None else int(peak))


def _counts(counted: Result | None) -> list[Headline]:
    if counted is None:
        return []
    counts, note = funnel(counted), f"of {counted.content['funnel']['candidates']:,} candidates"
    if counts.num_samples is None:
        return [Headline("Balanced pairs", f"{counts.kept:,}", note)]
    return [Headline("Samples", f"{counts.num_samples:,}", note)]
