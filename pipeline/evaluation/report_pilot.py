"""The section of a pilot's report: what the whole run would give, as a fragment of HTML."""

from pipeline.curation.extrapolation import Estimate, say
from pipeline.evaluation.report_data import ReportData
from pipeline.evaluation.report_sections import escape, words


def pilot(data: ReportData) -> str:
    """Numbers of the whole run with their intervals, then its drop reasons."""
    found = data.pilot
    assert found is not None
    dropped = sorted(found.dropped.items(), key=lambda pair: (-pair[1].value, pair[0]))
    return (
        f'<p class="note">This run used {100 * found.sample:g} % of the pictures: '
        f"{found.num_used:,} pairs that stand for {found.candidates:,} candidates. Below: what the "
        "same run file would give on all of them, with 95 % intervals.</p>"
        f"{_table(list(found.estimates.items()), 'expected')}"
        f"<h3>Pairs that would fall</h3>{_table(dropped, 'drop reason')}"
        f'<p class="note">Any reason that the sample did not show: at most '
        f"{found.unseen_high95:,.0f} pairs.</p>"
    )


def _table(found: list[tuple[str, Estimate]], heading: str) -> str:
    rows = "".join(_row(name, estimate) for name, estimate in found)
    return (
        f'<div class="scroll"><table><thead><tr><th>{heading}</th><th class="num">value</th>'
        f'<th class="num">95 % interval</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(name: str, found: Estimate) -> str:
    note = f"<small>{escape(found.note)}</small>" if found.note else ""
    bounds = f"{say(found.low95, found.unit)} – {say(found.high95, found.unit)}"
    return (
        f'<tr><td>{escape(words(name))}{note}</td><td class="num">'
        f'<b>{say(found.value, found.unit)}</b></td><td class="num">'
        f"{bounds if found.low95 < found.high95 else 'exact'}</td></tr>"
    )
