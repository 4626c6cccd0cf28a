"""A sheet for the terminal: a short text for people, one JSON object per sample for programs."""

from collections.abc import Iterator
from typing import Any

from pipeline.looking.distributions import Distribution
from pipeline.looking.plots import thresholds
from pipeline.looking.sheet import Group, Sample, Sheet
from pipeline.looking.sheet_page import SHARES, sweep_note

WIDTH = 100
"""Characters of a line."""
LINES = 12
"""Samples of a group that are named; the page shows all."""


def text(sheet: Sheet) -> str:
    """What was found, in a few lines per group."""
    parts = [_group(group) for group in sheet.groups]
    parts += [_sweep(found) for found in sheet.sweeps]
    return "\n\n".join(parts)


def rows(sheet: Sheet) -> Iterator[dict[str, Any]]:
    """An object per sample, and one per distribution with its counts."""
    for group in sheet.groups:
        for sample in group.samples:
            cosine = {} if sample.cosine is None else {"cosine": sample.cosine}
            yield {
                "group": group.title,
                "key": sample.key,
                "url": sample.url,
                "captions": sample.captions,
                **cosine,
                "scores": sample.scores,
                "outcomes": sample.outcomes,
            }
        if not group.samples:
            yield {"group": group.title, "count": group.count, "shown": 0}
    for found in sheet.sweeps:
        kept = [[bound, count] for bound, count, _ in thresholds(found, SHARES)]
        side = "most" if found.is_upper else "least"
        yield {"score": found.column, "num": found.num, f"kept_at_{side}": kept}


def _group(group: Group) -> str:
    lines = [group.title, f"  {group.note}"]
    lines += [_line(sample) for sample in group.samples[:LINES]]
    left = len(group.samples) - LINES
    if left > 0:
        lines.append(f"  … and {left} more, all with --output sheet.html")
    return "\n".join(lines if group.samples else [*lines, "  nothing to show"])


def _line(sample: Sample) -> str:
    value = sample.cosine if sample.cosine is not None else sample.scores.get("similarity")
    score = "      " if value is None else f"{value:6.3f}"
    caption = " ".join(sample.captions[0].split())
    line = f"  {score}  {sample.key[:12]}  {caption}"
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _sweep(found: Distribution) -> str:
    side = "at most" if found.is_upper else "at least"
    said = f"{found.column}: {sweep_note(found)}"
    if found.is_constant:
        return said
    lines = [said, f"  {side:>12}  {'kept':>12}   share"]
    lines += [
        f"  {bound:12.4g}  {count:12,}  {100 * share:5.1f} %"
        for bound, count, share in thresholds(found, SHARES)
    ]
    return "\n".join(lines)
