"""Sections of the data card about where the data comes from, what fell on the way, and who left."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.metrics import proportion
from pipeline.looking.page import Cell, Section, Table, Text, percent
from pipeline.looking.scores import KEPT
from pipeline.looking.tally import IN_SHARDS, dropped_when, head_and_tail
from pipeline.shards.keep_list import SPLITS

if TYPE_CHECKING:
    from pipeline.looking.card import Run

TOP = 20
"""Rows of a table of names; the rest is summed up."""
MAX_NESTED = 12
"""Settings inside a setting that are told one by one."""
NOT_WANTED = ("opted_out_page", "opted_out_image", "opted_out_site")
NOT_WANTED += ("robots_disallowed", "robots_unreachable")
"""Drop reasons by which somebody said no."""


def sections(run: "Run") -> list[Section]:
    """In the order of the data's way."""
    return [
        _sources(run),
        _funnel(run),
        _selection(run),
        _licences(run),
        _domains(run),
        _languages(run),
        _left(run),
    ]


def table(heading: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table | Text:
    """A table, or a word that there is nothing."""
    return Table(heading, rows) if rows else Text("There are none.")


def _sources(run: "Run") -> Section:
    if run.is_adopted:
        content = run.results["curate"].content
        note = (
            "These shards were made by somebody else and adopted as they are. What they were "
            "chosen from, and what fell before, they do not say: every number below begins with "
            "the adopted shards."
        )
        damaged = content["adopted"]["damaged"]
        rows = [["adopted shards", len(content["shards"])], ["damaged and left out", len(damaged)]]
        return Section("sources", "Sources", [Text(note), *_settings(run, "adopt", rows)])
    balanced = run.results.get("balance")
    rows: list[list[Cell]] = []
    if balanced is not None:
        rows.append(["files", int(balanced.content["num_files"])])
        rows.append(["damaged files", int(balanced.content["num_damaged_files"])])
        rows.append(["candidates", int(balanced.content["funnel"]["candidates"])])
    return Section("sources", "Sources", _settings(run, "candidates", rows))


def _settings(run: "Run", section: str, rows: Sequence[Sequence[Cell]]) -> list[Table | Text]:
    config: Mapping[str, Any] = run.config.get(section) or {}
    told = [[name.replace("_", " "), _value(value)] for name, value in _flat(config)]
    named = [["name", run.source]] if run.source else []
    numbers = [table(["what was read", "number"], rows)] if rows else []
    return [table(["setting", "value"], [*named, *told]), *numbers]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings that say something, by dotted name."""
    for name, value in sorted(config.items()):
        if isinstance(value, Mapping) and len(value) > MAX_NESTED:
            yield f"{prefix}{name}", f"{len(value)} settings"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value not in (None, "", [], {}):
            yield f"{prefix}{name}", value


def _value(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _funnel(run: "Run") -> Section:
    content = run.results["curate"].content
    counts = content["funnel"]
    total = int(counts["candidates"])
    fallen = sorted(dropped_when(run.results), key=lambda row: (row[0] != "balance", -row[2]))
    stage_of = {"balance": "before the crawl", "curate": "crawl and pictures"}
    if run.is_adopted:
        stage_of["curate"] = "adoption"
    rows: list[list[Cell]] = [["all candidates", "", total, _share(total, total)]]
    rows += [
        [_words(reason), stage_of[stage], count, _share(count, total)]
        for stage, reason, count in fallen
    ]
    rows.append(["kept pairs", "", int(counts["kept"]), _share(int(counts["kept"]), total)])
    note = (
        f"Every candidate pair of address and caption is kept or has exactly one reason; the "
        f"{int(counts['kept']):,} kept pairs are {content['num_samples']:,} samples."
    )
    heading = ["pairs", "where they fell", "number", "share"]
    blocks = [Text(note), table(heading, rows)]
    return Section("funnel", "From candidates to samples", blocks)


def _selection(run: "Run") -> Section:
    blocks: list[Table | Text] = []
    total = run.scored.num_samples
    for profile in run.scored.profiles:
        outcomes = run.scored.num_outcomes(profile)
        rows = [
            ["kept" if name == KEPT else _words(name), count, _share(count, total)]
            for name, count in outcomes.items()
        ]
        kept = run.scored.num_kept(profile)
        rows += [
            [f"of these for {split}", kept[split], _share(kept[split], total)] for split in SPLITS
        ]
        said = "; ".join(b.says() for b in run.scored.bounds() if b.profile == profile)
        blocks.append(Text(profile, is_heading=True))
        blocks.append(Text(f"Bounds: {said or 'none on any score'}."))
        blocks.append(table(["samples", "number", "share"], rows))
    if not blocks:
        blocks = [Text("Nothing was selected yet: every sample of the shards counts as kept.")]
    return Section("selection", "Selection", blocks)


def _licences(run: "Run") -> Section:
    note = "As the sources state them."
    return Section("licences", "Licences", [Text(note), _names("licence", run.tally.licences)])


def _domains(run: "Run") -> Section:
    counts = run.tally.domains[IN_SHARDS]
    total, singles = sum(counts.values()), sum(1 for count in counts.values() if count == 1)
    held = ", ".join(
        f"the {head:,} largest {percent(share)}"
        for head, share in head_and_tail(list(counts.values()), (10, 100, 1000))
    )
    note = (
        f"{len(counts):,} registered domains gave {total:,} samples"
        f"{f', {held} of them' if held else ''}. {singles:,} gave one sample each."
    )
    blocks = [Text(note), _names("domain", run.tally.domains)]
    return Section("domains", "Registered domains", blocks)


def _names(what: str, columns: Mapping[str, Counter[str]]) -> Table | Text:
    """Counts by name, most frequent first, and the sum of the rest."""
    first = columns[IN_SHARDS]
    order = sorted(first, key=lambda name: (-first[name], name))
    total = sum(first.values())
    rows: list[list[Cell]] = [
        [name, *(counts[name] for counts in columns.values()), _share(first[name], total)]
        for name in order[:TOP]
    ]
    if rest := order[TOP:]:
        sums = [sum(counts[name] for name in rest) for counts in columns.values()]
        rows.append([f"{len(rest):,} more", *sums, _share(sums[0], total)])
    return table([what, *columns, "share"], rows)


def _languages(run: "Run") -> Section:
    found = run.tally.languages
    num = sum(found.values())
    if not num:
        return Section("languages", "Languages of captions", [Text("There are no kept captions.")])
    rows: list[list[Cell]] = []
    for code in sorted(found, key=lambda code: (-found[code], code))[:TOP]:
        estimate = proportion(found[code], num)
        between = f"{percent(estimate.low95)} – {percent(estimate.high95)}"
        rows.append([code, found[code], estimate.value, between])
    note = (
        f"Of {run.tally.num_captions_kept:,} captions of kept samples {num:,} were drawn by hash "
        "and told by py3langid (codes of ISO 639-1); below one half of its probability a language "
        "is uncertain, as it is for captions of few words."
    )
    heading = ["language", "captions", "share", "95 % interval"]
    return Section("languages", "Languages of captions", [Text(note), table(heading, rows)])


def _left(run: "Run") -> Section:
    fallen = {reason: count for _, reason, count in dropped_when(run.results)}
    rows = [[_words(name), fallen[name]] for name in NOT_WANTED if name in fallen]
    blocks: list[Table | Text] = [
        Text("Opt-outs that this run met", is_heading=True),
        table(["why", "pairs"], rows),
        Text("Opt-outs that are remembered", is_heading=True),
        Text("Later crawls with this ledger never ask for these addresses again."),
        table(["why", "addresses"], [[_words(n), c] for n, c in sorted(run.opt_outs.items())]),
        Text("Removals", is_heading=True),
        Text("Requests in the run's ledger, then what the selection removed for them."),
        table(["named by", "entries"], [[name, c] for name, c in sorted(run.removals.items())]),
    ]
    removed = [
        [profile, run.scored.num_outcomes(profile).get("removed", 0)]
        for profile in run.scored.profiles
    ]
    if removed:
        blocks.append(table(["profile", "samples removed"], removed))
    return Section("left", "Opt-outs and removals", blocks)


def _share(part: int, total: int) -> float:
    return part / total if total else 0.0


def _words(name: str) -> str:
    return name.replace("_", " ")
