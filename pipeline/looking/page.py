"""What sheets and cards are made of: plain data, written as HTML or as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass


class Value(float):
    """A number that is no share: a score, a bound."""


Cell = str | int | float | None
"""Texts stand on the left, numbers on the right; a float is a share and is written in percent,
unless it is a ``Value``."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    is_heading: bool = False
    """A small heading instead."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a heading."""

    heading: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Plot:
    """A drawing for those who can see it; whoever writes Markdown leaves it out."""

    svg: str
    legend: Sequence[tuple[str, str]] = ()
    """CSS class and name of each series."""


@dataclass(frozen=True)
class Figure:
    """A small picture and what is said of it."""

    image: bytes | None
    """Encoded; None where there is no picture."""
    caption: str
    facts: Sequence[str] = ()
    """Short lines below the caption: scores, key."""


@dataclass(frozen=True)
class Contacts:
    """A contact sheet."""

    figures: Sequence[Figure]


Block = Text | Table | Plot | Contacts


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it."""

    name: str
    """Of the link to it."""
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    subtitle: str
    facts: list[tuple[str, str]]
    """Label and value."""
    sections: list[Section]
    footer: str = "Made by unclip-pipeline."


def shown(cell: Cell) -> str:
    """A cell as text."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Value):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else percent(cell)


def percent(share: float) -> str:
    """A share in percent, with as many places as small ones need."""
    value = 100 * share
    if value and abs(value) < 0.095:
        return f"{value:.2g} %"
    return f"{value:.1f} %"
