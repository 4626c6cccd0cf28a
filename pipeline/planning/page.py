"""A plan as one HTML page with plots."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.evaluation.svg import Frame, Scale, axes, drawing, path
from pipeline.looking.html import render
from pipeline.looking.page import Page, Plot, Section, Table, Text
from pipeline.looking.plots import SERIES
from pipeline.planning import text
from pipeline.planning.failures import Advice
from pipeline.planning.plan import Plan

DRAWN_SIZES = (8, 64, 256, 1024)


def write(plan: Plan, output: str) -> str:
    """Write the page; returns where.

    Raises:
        ConfigError: It cannot be written there.
    """
    try:
        Path(output).write_text(render(page(plan)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--output {output}: {error.strerror}; name a file in a folder"
        ) from error
    return output


def page(plan: Plan) -> Page:
    """All that a plan says."""
    offer = plan.offer
    total = sum(each.dollars for each in plan.trainings)
    facts = [
        ("GPU", f"{offer.gpu.name}, {offer.price:.2f} $ per hour"),
        ("all trainings", f"{total:,.2f} $"),
    ]
    return Page(
        title=f"Plan of {plan.name}",
        subtitle="What its trainings take, before anything is taken",
        facts=facts,
        sections=[
            Section(
                "trainings",
                "Trainings",
                [
                    Table(text.TRAINING_HEADING, [text.training_row(e) for e in plan.trainings]),
                    *map(Text, text.notes(plan)),
                ],
            ),
            Section(
                "data",
                "Data",
                [
                    Table(text.DATA_HEADING, [text.stored_row(e) for e in plan.stored]),
                    Table(text.READING_HEADING, [text.reading_row(e) for e in plan.readings]),
                ],
            ),
            Section("failures", f"Interruptions of {plan.longest.stage}", _failures(plan)),
        ],
    )


def _failures(plan: Plan) -> list[Text | Plot | Table]:
    drawn = [(size, plan.sizes[size]) for size in DRAWN_SIZES]
    return [
        Text("Share of time that is work, by the time between checkpoints; means of simulated "
             "runs with the same failures."),
        goodput_plot(drawn),
        Text("At the best interval of each number of devices:"),
        Table(text.SIZE_HEADING, text.size_rows(plan)),
    ]  # fmt: skip


def goodput_plot(drawn: Sequence[tuple[int, Advice]]) -> Plot:
    """Goodput over the interval, a line for each number of devices."""
    frame = Frame(width=760, height=300, left=64)
    points = [(x, y) for _, each in drawn for x, y in each.by_interval.items()]
    lowest = min(y for _, y in points)
    x = Scale(min(x for x, _ in points), max(x for x, _ in points), is_log=True)
    y = Scale(max(0.0, lowest - 0.05 * (1 - lowest)), 1.0)
    parts = axes(frame, x, y, "seconds of work between checkpoints", "goodput")
    legend = []
    for css, (size, each) in zip(SERIES, drawn, strict=False):
        parts.append(path(frame, x, y, list(each.by_interval.items()), f"line {css}"))
        legend.append((css, f"{size:,} devices"))
    return Plot(drawing(frame, parts, "goodput over the interval between checkpoints"), legend)
