"""Sections of the data card about what the data holds: queries, scores, duplicates, people."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.candidates import schema
from pipeline.evaluation import svg
from pipeline.looking import plots, terms
from pipeline.looking.card_origin import table
from pipeline.looking.distributions import QUANTILES, Distribution
from pipeline.looking.drawn import Drawn
from pipeline.looking.page import Block, Cell, Plot, Section, Text, Value
from pipeline.looking.scores import KEPT
from pipeline.looking.sheet_page import sweep_note
from pipeline.looking.tally import BITS, COSINES, dropped_when
from pipeline.queries import yields
from pipeline.shards.writer import read_table

if TYPE_CHECKING:
    from pipeline.looking.card import Run

NUM_QUERIES = 15
"""Queries of the head, and of the tail, that are named."""
DUPLICATES = ("duplicate_pair", "repeated_caption", "exact_duplicate", "near_duplicate")
DUPLICATES += ("semantic_duplicate",)


def sections(run: "Run") -> list[Section]:
    """In the order of the data's way."""
    return [_queries(run), _scores(run), _duplicates(run), _overlaps(run), _people(run)]


def num_kept(run: "Run") -> dict[str, int]:
    """Kept samples per profile."""
    return {profile: run.scored.num_outcomes(profile)[KEPT] for profile in run.scored.profiles}


def _queries(run: "Run") -> Section:
    uri = storage.join(run.results["curate"].uri, yields.FILE)
    if run.is_adopted or not storage.exists(uri):
        note = "These shards were adopted; no queries chose them."
        return Section("queries", "Queries", [Text(note)])
    counts = read_table(uri)
    matched, kept = (counts[name].to_numpy() for name in (yields.MATCHED, yields.KEPT))
    after = counts["in_shards"].to_numpy() if "in_shards" in counts.column_names else kept
    found = int(np.count_nonzero(matched))
    order = np.argsort(-matched, kind="stable")
    head = counts.take(pa.array(order[: min(NUM_QUERIES, found)]))
    note = (
        f"{found:,} of {len(matched):,} queries stand in a caption of the candidates, "
        f"{int(np.count_nonzero(after)):,} in one of the shards."
    )
    rank = svg.rank_plot(
        [float(n) for n in matched[order][:found]],
        [float(n) for n in -np.sort(-after)[:found]],
        "pairs per query among the candidates and in the shards",
    )
    legend = [("all", "candidates"), ("one", "in the shards")]
    blocks: list[Block] = [Text(note), Plot(rank, legend), Text("Head", is_heading=True)]
    blocks += [_query_table(head), Text("Tail", is_heading=True), _spread(after)]
    blocks += [Text("Some of the tail, drawn by hash:"), _query_table(_tail(counts, after))]
    return Section("queries", "Queries", blocks)


def _query_table(counts: pa.Table) -> Block:
    names = {
        schema.QUERY: "query",
        yields.MATCHED: "candidates",
        yields.KEPT: "balanced pairs",
        "in_shards": "in the shards",
    }
    given = [name for name in names if name in counts.column_names]
    rows = [[row[name] for name in given] for row in counts.to_pylist()]
    return table([names[name] for name in given], rows)


def _spread(after: np.ndarray) -> Block:
    """How many queries have how many pairs."""
    ends = [0, 1, 10, 100, 1_000, 10_000]
    rows: list[list[Cell]] = []
    for low, high in zip(ends, [*ends[1:], None], strict=True):
        of = after >= low if high is None else (after >= low) & (after < high)
        between = f"{low:,} or more" if high is None else f"{low:,} to {high - 1:,}"
        num = int(np.count_nonzero(of))
        if num:
            said = "0" if high == 1 else between
            rows.append([said, num, int(after[of].sum())])
    return table(["pairs in the shards", "queries", "their matches"], rows)


def _tail(counts: pa.Table, after: np.ndarray) -> pa.Table:
    """Queries drawn from the less frequent half of those that have a pair."""
    present = np.flatnonzero(after > 0)
    rare = present[after[present] <= np.median(after[present])] if len(present) else present
    drawn: Drawn[int] = Drawn(NUM_QUERIES, 0, "tail")
    names = counts[schema.QUERY].take(pa.array(rare)).to_pylist()
    drawn.offer(names, [int(row) for row in rare])
    return counts.take(pa.array(sorted(drawn.things()), pa.int64()))


def _scores(run: "Run") -> Section:
    shown = [found for found in run.distributions if found.num]
    if not shown:
        return Section("scores", "Scores", [Text("There are no scores yet: embed, then select.")])
    heading = ["score", "samples", *(f"{100 * share:g} %" for share in QUANTILES)]
    rows: list[list[Cell]] = [
        [found.column, found.num, *(Value(found.quantile(share)) for share in QUANTILES)]
        for found in shown
    ]
    blocks: list[Block] = [
        Text("Quantiles over all samples of the shards, to a thousandth of the score's range."),
        table(heading, rows),
    ]
    for found in shown:
        blocks += _score(found)
    return Section("scores", "Scores", blocks)


def _score(found: Distribution) -> list[Block]:
    heading = Text(found.column, is_heading=True)
    note = Text(sweep_note(found, with_lines=False))
    return [heading, note] if found.is_constant else [heading, note, plots.histogram(found)]


def _duplicates(run: "Run") -> Section:
    fallen = {reason: count for _, reason, count in dropped_when(run.results)}
    rows: list[list[Cell]] = [
        [name.replace("_", " "), "pairs", fallen[name]] for name in DUPLICATES if name in fallen
    ]
    for profile in run.scored.profiles:
        count = run.scored.num_outcomes(profile).get("semantic_duplicate")
        if count is not None:
            rows.append(["semantic duplicate", f"samples, profile {profile}", count])
    groups = run.results["curate"].content.get("clusters")
    note = "Near-duplicates of adopted shards stay, and share a cluster, which no split parts."
    if groups:
        note = (
            f"{groups['num_clusters']:,} groups of equal or near-equal pictures hold "
            f"{groups['num_pictures']:,} pictures, the largest {groups['largest']:,}; of each the "
            "largest picture stays."
        )
    elif not run.is_adopted:
        note = "No group of equal or near-equal pictures was found."
    fell = table(["what fell", "of", "number"], rows) if rows else Text("No pair fell for it.")
    return Section("duplicates", "Duplicates", [Text(note), fell])


def _overlaps(run: "Run") -> Section:
    title = "Overlaps with evaluation sets"
    if not run.tally.overlaps:
        return Section("overlaps", title, [Text("No evaluation set was compared with this data.")])
    heading = ["evaluation set", "nearest to it", *(f"bits ≤ {bits}" for bits in BITS)]
    heading += [f"cosine ≥ {cosine:g}" for cosine in COSINES]
    rows: list[list[Cell]] = [
        [
            name,
            counts["samples"],
            *(counts[f"bits {bits}"] for bits in BITS),
            *(counts[f"cosine {cosine}"] for cosine in COSINES),
        ]
        for name, counts in sorted(run.tally.overlaps.items())
    ]
    fallen: list[list[Cell]] = [
        [profile, run.scored.num_outcomes(profile).get("evaluation_overlap", 0)]
        for profile in run.scored.profiles
    ]
    note = (
        "Every sample is compared with every picture of the sets: samples whose nearest picture is "
        "of a set, and how many of them are so near, by the bits in which perceptual hashes differ "
        "(of 64) and by the cosine of embeddings."
    )
    return Section(
        "overlaps",
        title,
        [
            Text(note),
            table(heading, rows),
            Text("Samples dropped for it", is_heading=True),
            table(["profile", "samples"], fallen),
        ],
    )


def _people(run: "Run") -> Section:
    words = run.tally.words
    heading = ["group", *(f"{name}{part}" for name in words for part in ("", ", share"))]
    rows: list[list[Cell]] = []
    for group in terms.TERMS:
        row: list[Cell] = [group]
        for each in words.values():
            count = each.of_group[group]
            row += [count, count / each.num_captions if each.num_captions else 0.0]
        if any(each.of_group[group] for each in words.values()):
            rows.append(row)
    totals = ", ".join(f"{name} {each.num_captions:,}" for name, each in words.items())
    absent = [g for g in terms.TERMS if not any(w.of_group[g] for w in words.values())]
    note = (
        "Captions that hold a term of a group, as whole English words, before and after "
        f"filtering. Captions in all: {totals}. Words are counted, not people: the rates show "
        "whether filtering preferred some captions to others."
    )
    blocks: list[Block] = [Text(note), *([table(heading, rows)] if rows else [])]
    if absent:
        blocks.append(Text(f"In no caption: {', '.join(absent)}."))
    listed: list[list[Cell]] = [[group, terms.in_words(group)] for group in terms.TERMS]
    blocks += [Text("The terms", is_heading=True), table(["group", "terms"], listed)]
    blocks.append(Text(f"“+ person” stands for: {', '.join(terms.PERSONS)}."))
    return Section("people", "Words for people in captions", blocks)
