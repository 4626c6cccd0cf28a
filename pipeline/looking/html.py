"""A page as one self-contained HTML file: readable offline, without JavaScript, in print."""

from collections.abc import Sequence

from pipeline.evaluation.report_sections import data_uri, escape
from pipeline.evaluation.report_style import CSS
from pipeline.looking.page import Block, Cell, Contacts, Figure, Page, Plot, Section, Table, shown
from pipeline.looking.plots import PLOT_CSS

SHEET_CSS = """
.scroll{margin:0 0 14px}
.scroll table{width:auto;min-width:min(100%,420px)}
.scroll th,.scroll td{padding-right:28px}
td.text{overflow-wrap:break-word;max-width:46ch}
.contacts{display:grid;grid-template-columns:repeat(auto-fill,minmax(148px,1fr));gap:14px 12px;
margin:8px 0 4px}
.contacts figure{margin:0;min-width:0;break-inside:avoid}
.contacts img,.contacts .none{width:100%;aspect-ratio:1;object-fit:contain;border-radius:6px;
background:var(--track);display:block}
.contacts .none{display:grid;place-items:center;color:var(--soft);font-size:.78rem}
.contacts figcaption{font-size:.8rem;line-height:1.35;margin-top:5px;overflow-wrap:anywhere;
display:-webkit-box;-webkit-line-clamp:4;-webkit-box-orient:vertical;overflow:hidden}
.contacts small{display:block;font-size:.72rem;line-height:1.4;color:var(--soft);
overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.legend{flex-wrap:wrap;gap:2px 18px}
"""


def render(page: Page) -> str:
    """The page as one HTML document."""
    facts = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in page.facts
    )
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in page.sections)
    sections = "".join(map(_section, page.sections))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{CSS}{SHEET_CSS}{PLOT_CSS}</style></head>"
        f'<body><header><h1>{escape(page.title)}</h1><p class="soft">{escape(page.subtitle)}</p>'
        f'<nav>{links}</nav></header><main><section><dl class="facts">{facts}</dl></section>'
        f"{sections}</main><footer>{escape(page.footer)}</footer></body></html>\n"
    )


def _section(section: Section) -> str:
    blocks = "".join(map(_block, section.blocks))
    return f'<section id="{section.name}"><h2>{escape(section.title)}</h2>{blocks}</section>'


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Plot):
        return f"{_legend(block.legend)}{block.svg}"
    if isinstance(block, Contacts):
        return f'<div class="contacts">{"".join(map(_figure, block.figures))}</div>'
    if block.is_heading:
        return f"<h3>{escape(block.text)}</h3>"
    return f'<p class="note">{escape(block.text)}</p>'


def _table(table: Table) -> str:
    first = table.rows[0] if table.rows else table.heading
    head = "".join(
        f"<th{_css(cell)}>{escape(name)}</th>"
        for name, cell in zip(table.heading, first, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _cell(cell: Cell) -> str:
    return f"<td{_css(cell)}>{escape(shown(cell))}</td>"


def _css(cell: Cell) -> str:
    return ' class="text"' if isinstance(cell, str) else ' class="num"'


def _legend(legend: Sequence[tuple[str, str]]) -> str:
    if not legend:
        return ""
    names = "".join(f'<span><i class="{css}"></i>{escape(name)}</span>' for css, name in legend)
    return f'<p class="legend">{names}</p>'


def _figure(figure: Figure) -> str:
    picture = '<div class="none">no picture</div>'
    if figure.image is not None:
        picture = (
            f'<img src="{data_uri(figure.image)}" alt="{escape(figure.caption)}" loading="lazy">'
        )
    facts = "".join(f"<small>{escape(fact)}</small>" for fact in figure.facts)
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    return f"<figure>{picture}{caption}{facts}</figure>"
