"""One self-contained HTML file that shows a run: readable offline, without JavaScript, in print."""

from collections.abc import Callable

from pipeline import storage
from pipeline.evaluation import report_pilot, report_queries, report_sections
from pipeline.evaluation.report_data import SECTIONS, Headline, ReportData
from pipeline.evaluation.report_sections import escape
from pipeline.evaluation.report_style import CSS

_BUILDERS: dict[str, tuple[Callable[[ReportData], bool], Callable[[ReportData], str]]] = {
    "pilot": (lambda d: d.pilot is not None, report_pilot.pilot),
    "scores": (lambda d: bool(d.score_tables or d.confusions), report_sections.scores),
    "lines": (lambda d: bool(d.lines), report_sections.lines),
    "sheets": (lambda d: bool(d.sheets), report_sections.sheets),
    "limits": (lambda d: bool(d.limits), report_sections.limits),
    "gallery": (lambda d: bool(d.gallery), report_sections.gallery),
    "losses": (lambda d: bool(d.curves), report_sections.losses),
    "funnel": (lambda d: d.funnel is not None, report_sections.funnel),
    "queries": (lambda d: d.queries is not None, report_queries.queries),
    "thumbnails": (lambda d: bool(d.kept or d.dropped), report_sections.thumbnails),
    "clusters": (lambda d: d.duplicates is not None, report_sections.clusters),
    "costs": (lambda d: bool(d.costs), report_sections.costs),
}
"""Per section: whether there is anything to show, and how."""


def write_report(data: ReportData, uri: str) -> None:
    """Write the report to a file, whole or not at all."""
    storage.write_bytes(uri, render(data).encode())


def render(data: ReportData) -> str:
    """The report as one HTML document.

    A section without data is left out; where ``data.missing`` states why, the reason is shown.
    """
    sections = "".join(_section(name, data) for name in SECTIONS)
    facts = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in data.facts
    )
    headlines = "".join(_headline(headline) for headline in data.headlines)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(data.title)}</title><style>{CSS}</style></head><body>"
        f'<header><h1>{escape(data.title)}</h1><p class="soft">{escape(data.subtitle)}</p>'
        f"<nav>{_links(data)}</nav></header>"
        f'<main><div class="headlines">{headlines}</div>'
        f'<section><dl class="facts">{facts}</dl></section>{sections}</main>'
        "<footer>Made by unclip-pipeline. Intervals are 95 %.</footer></body></html>\n"
    )


def _headline(headline: Headline) -> str:
    return (
        f'<div class="headline"><span>{escape(headline.label)}</span>'
        f"<b>{escape(headline.value)}</b><span>{escape(headline.note)}</span></div>"
    )


def _is_shown(name: str, data: ReportData) -> bool:
    return _BUILDERS[name][0](data) or name in data.missing


def _links(data: ReportData) -> str:
    return "".join(
        f'<a href="#{name}">{escape(title)}</a>'
        for name, title in SECTIONS.items()
        if _is_shown(name, data)
    )


def _section(name: str, data: ReportData) -> str:
    if not _is_shown(name, data):
        return ""
    has_data, build = _BUILDERS[name]
    body = build(data) if has_data(data) else ""
    if name in data.missing:
        body += f'<p class="absent">{escape(data.missing[name])}</p>'
    return f'<section id="{name}"><h2>{escape(SECTIONS[name])}</h2>{body}</section>'
