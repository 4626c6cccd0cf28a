"""A page as Markdown that a repository or a hub shows; plots and pictures are left out."""

import re
from collections.abc import Sequence

from pipeline.looking.page import Block, Cell, Page, Section, Table, Text, shown

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def render(page: Page) -> str:
    """The page as one Markdown document."""
    parts = [f"# {escape(page.title)}", escape(page.subtitle)]
    parts.append("\n".join(f"- **{escape(label)}:** {escape(v)}" for label, v in page.facts))
    for section in page.sections:
        parts += _section(section)
    parts.append(escape(page.footer))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """A text that no reader of Markdown takes for markup, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def _section(section: Section) -> list[str]:
    return [f"## {escape(section.title)}", *map(_block, section.blocks)]


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Text):
        return f"{'### ' if block.is_heading else ''}{escape(block.text)}"
    return ""


def _table(table: Table) -> str:
    first = table.rows[0] if table.rows else table.heading
    rule = ["---" if isinstance(cell, str) else "---:" for cell in first]
    return "\n".join([_row(table.heading), f"| {' | '.join(rule)} |", *map(_row, table.rows)])


def _row(cells: Sequence[Cell]) -> str:
    return f"| {' | '.join(escape(shown(cell)) for cell in cells)} |"
