"""The section of a report about queries: what they found and keep, as a fragment of HTML."""

from collections.abc import Mapping, Sequence

from pipeline.evaluation import svg
from pipeline.evaluation.report_data import QueryCount, QueryYields, ReportData
from pipeline.evaluation.report_sections import escape


def queries(data: ReportData) -> str:
    """Counts by rank before and after balancing, the sums, and the most frequent queries."""
    found = data.queries
    assert found is not None
    plot = svg.rank_plot(found.before, found.after, "pairs per query before and after balancing")
    return (
        '<p class="legend"><span><i style="background:var(--a)"></i>before balancing</span>'
        '<span><i style="background:var(--b)"></i>after</span></p>'
        f"{plot}<p>{escape(_sums(found))}</p>{_sources(found.facts['sources'])}"
        f"<h3>Most frequent queries</h3>{_most_frequent(found.most_frequent)}"
    )


def _sums(found: QueryYields) -> str:
    facts = found.facts
    said = [
        f"{facts['num_matched']:,} of {facts['num_queries']:,} queries stand in a caption, "
        f"{facts['num_head']:,} of them in more than the limit of {facts['limit']:,g} pairs.",
        f"{100 * facts['unmatched_share']:.1f} % of the captions contain no query.",
        f"The queries within the limit had {100 * facts['tail_share_before']:.1f} % of all matches "
        f"before balancing and have {100 * facts['tail_share_after']:.1f} % after it.",
        f"The largest query had {facts['largest_matched']:,} pairs and has "
        f"{facts['largest_kept']:,}; {facts['num_above_limit']:,} queries are above the limit",
    ]
    if "largest_owned" in facts:
        said[-1] += f", but none owns more than {facts['largest_owned']:,} of its pairs"
    return " ".join(said) + "."


def _sources(sources: Mapping[str, Mapping[str, int]]) -> str:
    rows = [
        [name, each["num_queries"], each["num_matched"], each["matched"], each["kept"]]
        for name, each in sources.items()
    ]
    heading = ["source of queries", "queries", "found in captions", "matches", "matches kept"]
    return f"<h3>What each source gave</h3>{_table(heading, rows)}"


def _most_frequent(found: Sequence[QueryCount]) -> str:
    heading = ["query", "source", "pairs before", "pairs owned", "pairs kept", "in shards"]
    rows = [[q.query, q.source, q.matched, q.owned, q.kept, q.in_shards] for q in found]
    given = [place for place in range(len(heading)) if any(row[place] is not None for row in rows)]
    return _table([heading[p] for p in given], [[row[p] for p in given] for row in rows])


def _table(heading: Sequence[str], rows: Sequence[Sequence[str | int | None]]) -> str:
    """Texts on the left, numbers on the right."""
    head = "".join(
        f"<th{_css(cell)}>{escape(name)}</th>"
        for name, cell in zip(heading, rows[0] if rows else heading, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _css(cell: str | int | None) -> str:
    return "" if isinstance(cell, str) else ' class="num"'


def _cell(cell: str | int | None) -> str:
    shown = cell if isinstance(cell, str) else "" if cell is None else f"{cell:,}"
    return f"<td{_css(cell)}>{escape(shown)}</td>"
