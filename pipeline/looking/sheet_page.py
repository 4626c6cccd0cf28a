"""A curator's sheet as a page: a contact sheet per group, a plot and a table per score."""

from collections.abc import Iterator

from pipeline import storage
from pipeline.evaluation.report_sections import size
from pipeline.looking import html, plots
from pipeline.looking.distributions import Distribution
from pipeline.looking.page import Block, Contacts, Figure, Page, Section, Table, Text, Value
from pipeline.looking.sheet import Group, Sample, Sheet

SHARES = (0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.01)
"""Shares of the samples that the bounds of a table keep, about."""


def write(sheet: Sheet, uri: str) -> str:
    """Write the sheet as one HTML file; says what was written.

    Args:
        sheet: What was found.
        uri: The file.
    """
    content = html.render(page(sheet)).encode()
    storage.write_bytes(uri, content)
    num_pictures = sum(len(group.samples) for group in sheet.groups)
    return f"{uri}: {num_pictures} pictures, {size(len(content))}"


def page(sheet: Sheet) -> Page:
    """The sheet as a page."""
    facts = [("Run", sheet.name), ("Samples", f"{sheet.num_samples:,}")]
    facts += [(f"Kept by {name}", f"{count:,}") for name, count in sheet.profiles.items()]
    sections = [
        Section(f"group-{place}", group.title, _group_blocks(group))
        for place, group in enumerate(sheet.groups)
    ]
    sections += [
        Section(f"sweep-{found.column}", f"Bounds on {found.column}", sweep_blocks(found))
        for found in sheet.sweeps
    ]
    return Page(
        title=f"A look at {sheet.name}",
        subtitle="Samples are drawn by hash: the same call shows the same ones.",
        facts=facts,
        sections=sections,
    )


def _group_blocks(group: Group) -> list[Block]:
    if not group.samples:
        return [Text(group.note), Text("There is nothing to show.")]
    return [Text(group.note), Contacts([_figure(sample) for sample in group.samples])]


def _figure(sample: Sample) -> Figure:
    return Figure(sample.image, sample.captions[0], [*_facts(sample), sample.key])


def _facts(sample: Sample) -> Iterator[str]:
    if sample.cosine is not None:
        yield f"cosine {sample.cosine:.3f}"
    for name, value in sample.scores.items():
        yield f"{name} {value:.4g}"
    for profile, outcome in sample.outcomes.items():
        yield f"{profile}: {outcome.replace('_', ' ')}"
    if len(sample.captions) > 1:
        yield f"and {len(sample.captions) - 1} more captions"


def sweep_blocks(found: Distribution) -> list[Block]:
    """How many samples every bound on a score keeps: a plot, then a table."""
    if found.is_constant:
        return [Text(sweep_note(found))]
    side = "at most" if found.is_upper else "at least"
    rows = [[Value(bound), n, share] for bound, n, share in plots.thresholds(found, SHARES)]
    heading = [f"{found.column} {side}", "samples kept", "share"]
    blocks: list[Block] = [Text(sweep_note(found)), plots.sweep(found)]
    return [*blocks, Table(heading, rows)]


def sweep_note(found: Distribution, *, with_lines: bool = True) -> str:
    """What a score is, where the profiles' bounds are, and what a sweep's lines count."""
    missing = f", {found.num_missing:,} have none" if found.num_missing else ""
    value = f", all {found.quantile(1.0):g}" if found.is_constant else ""
    said = f"{found.num:,} samples have this score{value}{missing}."
    for bound in found.bounds:
        said += f" {bound.profile}: {bound.says()}, which {found.passing[bound.profile]:,} pass."
    if not found.bounds:
        said += " No profile bounds it."
    if with_lines and found.reached and not found.is_constant:
        said += (
            " A profile's line counts what it keeps now and what it drops for this score alone; "
            "limits that are decided later (queries, duplicates) are not decided again."
        )
    return said
