"""The sections of a report as HTML fragments; each takes report data and returns its inner part."""

import base64
import html
from collections.abc import Sequence

from pipeline.evaluation import svg
from pipeline.evaluation.judges import NONE_LABEL, Confusion
from pipeline.evaluation.report_data import (
    Funnel,
    NamedConfusion,
    ReportData,
    Score,
    ScoreTable,
    ShownPicture,
    StageCost,
    Thumbnail,
)


def escape(text: str) -> str:
    """Text as HTML, quotes included."""
    return html.escape(text, quote=True)


def data_uri(image: bytes) -> str:
    """An encoded picture as an address that needs no file."""
    kinds = {b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif"}
    kind = kinds.get(image[:4], "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def picture(image: bytes, description: str) -> str:
    """An inline picture with a description for those who cannot see it."""
    return f'<img src="{data_uri(image)}" alt="{escape(description)}" loading="lazy">'


def duration(seconds: float | int) -> str:
    """Seconds as people say them: ``0.4 s``, ``2 min 05 s``, ``3 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(num_bytes: int) -> str:
    """Bytes in binary units."""
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if num_bytes >= 1024**power:
            return f"{num_bytes / 1024**power:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def words(name: str) -> str:
    """A snake_case name as words."""
    return name.replace("_", " ")


def bar(share: float, css: str = "") -> str:
    """A horizontal bar filled to a share in [0, 1]."""
    return f'<div class="bar {css}"><i style="width:{100 * share:.2f}%"></i></div>'


def scores(data: ReportData) -> str:
    """Tables of scores with intervals, then confusion matrices."""
    parts = [_score_table(table) for table in data.score_tables]
    if data.confusions:
        matrices = "".join(_confusion(named) for named in data.confusions)
        parts.append(f'<div class="confusions">{matrices}</div>')
    return "".join(parts)


def _score_table(table: ScoreTable) -> str:
    rows = "".join(_score_row(score) for score in table.scores)
    return (
        f'<h3>{escape(table.title)}</h3><p class="note">{escape(table.note)}</p>'
        '<div class="scroll"><table class="scores"><thead><tr><th>measured</th>'
        '<th class="num">value</th><th class="num">95 % interval</th><th></th>'
        '<th class="num">n</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _score_row(score: Score) -> str:
    found = score.estimate
    note = f"<small>{escape(score.note)}</small>" if score.note else ""
    plot = ""
    if score.is_share:
        value, low, high = (f"{100 * v:.1f} %" for v in (found.value, found.low95, found.high95))
        if found.low95 >= 0:
            plot = svg.interval_bar(found.value, found.low95, found.high95, score.chance)
    else:
        value, low, high = (f"{v:.4g}" for v in (found.value, found.low95, found.high95))
    bounds = f"{low} – {high}" if found.high95 > found.low95 else "–"
    value, bounds = value.replace("-", "−"), bounds.replace("-", "−")
    return (
        f'<tr><td>{escape(score.label)}{note}</td><td class="num"><b>{value}</b></td>'
        f'<td class="num">{bounds}</td><td class="plot">{plot}</td>'
        f'<td class="num">{found.num:,}</td></tr>'
    )


def _confusion(named: NamedConfusion) -> str:
    table: Confusion = named.confusion
    head = "".join(f"<th>{escape(label)}</th>" for label in table.readings)
    rows = []
    for truth, counts in zip(table.truths, table.counts, strict=True):
        total = max(1, sum(counts))
        cells = "".join(
            f'<td class="{_cell_class(truth, label, count)}" style="--s:{count / total:.3f}">'
            f"{count}</td>"
            for label, count in zip(table.readings, counts, strict=True)
        )
        rows.append(f'<tr><th class="row">{escape(truth)}</th>{cells}</tr>')
    share = f"{table.num_right} of {table.num} right"
    return (
        f'<div><h3>{escape(named.title)}</h3><p class="note">{share}; rows: what it is, columns: '
        f'what was read.</p><div class="scroll"><table class="confusion"><thead><tr><th></th>{head}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _cell_class(truth: str, label: str, count: int) -> str:
    own = "own" if truth == label and label != NONE_LABEL else ""
    return f"{own}{'' if count else ' zero'}".strip()


def gallery(data: ReportData) -> str:
    """Generated pictures with prompt, reading and nearest training pictures."""
    shown = "".join(_made(made) for made in data.gallery)
    return (
        f'<p class="note">The first {len(data.gallery)} pictures in order, none left out. Beside '
        "each prompt: the closest training pictures by CLIP embedding, with their cosine. A "
        "neighbour that looks the same is a copy, not a drawing.</p>"
        f'<div class="gallery">{shown}</div>'
    )


def _made(made: ShownPicture) -> str:
    verdict = ""
    if made.reading:
        css = {True: "right", False: "wrong", None: "soft"}[made.is_right]
        sign = {True: "✓ ", False: "✗ ", None: ""}[made.is_right]
        verdict = f'<p class="{css}">{sign}read as {escape(made.reading)}</p>'
    near = "".join(
        f"<figure>{picture(n.image, n.caption or 'a training picture')}"
        f"<figcaption>{n.cosine:.3f}</figcaption></figure>"
        for n in made.nearest
    )
    return (
        f'<div class="made">{picture(made.image, made.prompt)}<div><p>{escape(made.prompt)}</p>'
        f'{verdict}<div class="near">{near}</div></div></div>'
    )


def lines(data: ReportData) -> str:
    """One chart per quantity, with intervals."""
    charts = []
    for found in data.lines:
        series = {
            name: [(each.value, each.low95, each.high95) for each in estimates]
            for name, estimates in found.series.items()
        }
        drawn = svg.interval_lines(found.x, series, found.x_label, found.title)
        legend = "".join(
            f'<span><i class="dot-{place}"></i>{escape(name)}</span>'
            for place, name in enumerate(series, 1)
        )
        charts.append(
            f'<div><h3>{escape(found.title)}</h3><div class="legend">{legend}</div>{drawn}</div>'
        )
    return f'<div class="charts">{"".join(charts)}</div>'


def sheets(data: ReportData) -> str:
    """Sheets of pictures under their names."""
    return "".join(
        f'<h3>{escape(words(sheet.caption))}</h3><div class="scroll">'
        f"{picture(sheet.image, sheet.caption)}</div>"
        for sheet in data.sheets
    )


def limits(data: ReportData) -> str:
    """What is known not to work, and what nobody has measured yet."""
    rows = "".join(
        f"<tr><td>{escape(limit.about)}</td>"
        f'<td class="{"" if limit.is_measured else "soft"}">{escape(limit.told)}</td></tr>'
        for limit in data.limits
    )
    return f'<div class="scroll"><table class="limits">{rows}</table></div>'


def losses(data: ReportData) -> str:
    """One small chart per trained stage."""
    charts = []
    for curve in data.curves:
        drawn = svg.loss_curve(curve.samples_seen, curve.loss, f"loss of {curve.stage}")
        note = f'<p class="note">{escape(curve.note)}</p>' if curve.note else ""
        charts.append(f"<div><h3>{escape(words(curve.stage))}</h3>{note}{drawn}</div>")
    return (
        '<p class="note">Faint: the loss as logged; strong: its moving average.</p>'
        f'<div class="charts">{"".join(charts)}</div>'
    )


def funnel(data: ReportData) -> str:
    """Bars from all candidates down to samples, every drop reason named."""
    found = data.funnel
    assert found is not None
    rows = [_funnel_row("candidates", found.candidates, found, "")]
    for reason, count in sorted(found.dropped.items(), key=lambda pair: (-pair[1], pair[0])):
        rows.append(_funnel_row(f"– {words(reason)}", count, found, "dropped"))
    rows.append(_funnel_row("kept pairs", found.kept, found, "kept"))
    return (
        f'<p class="note">A candidate is a pair of address and caption; each ends as kept or with '
        f"exactly one reason. {_samples(found)}</p>"
        f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _samples(found: Funnel) -> str:
    if found.num_samples is None:
        return "The kept pairs are balanced and not yet crawled."
    return (
        f"The {found.kept:,} kept pairs are {found.num_samples:,} samples (a picture with several "
        "captions is one sample)."
    )


def _funnel_row(label: str, count: int, found: Funnel, css: str) -> str:
    share = count / found.candidates if found.candidates else 0.0
    return (
        f'<tr><td>{escape(label)}</td><td style="width:50%">{bar(share, css)}</td>'
        f'<td class="num">{count:,}</td><td class="num">{100 * share:.1f} %</td></tr>'
    )


def thumbnails(data: ReportData) -> str:
    """Pictures of kept samples, then of dropped ones by reason."""
    parts = []
    if data.kept:
        parts.append(f"<h3>Kept</h3>{_thumbs(data.kept)}")
    for reason in sorted(data.dropped):
        if data.dropped[reason]:
            title = f"Dropped: {words(reason)}"
            parts.append(f"<h3>{escape(title)}</h3>{_thumbs(data.dropped[reason])}")
    return "".join(parts)


def clusters(data: ReportData) -> str:
    """The largest groups of duplicates, each with the picture that stayed first."""
    found = data.duplicates
    assert found is not None
    note = (
        f"{found.num_groups:,} groups hold {found.num_pictures:,} pictures; of each the largest "
        "picture stays, which stands first."
    )
    groups = "".join(
        f"<h3>{group.num_pictures:,} pictures</h3>{_thumbs(group.members)}" for group in found.shown
    )
    return f'<p class="note">{note}</p>{groups}'


def _thumbs(pictures: Sequence[Thumbnail]) -> str:
    figures = "".join(
        f"<figure>{picture(p.image, p.caption)}"
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p in pictures
    )
    return f'<div class="thumbs">{figures}</div>'


def costs(data: ReportData) -> str:
    """Time and peak memory of every stage."""
    longest = max((cost.wall_s for cost in data.costs), default=0.0) or 1.0
    total = sum(cost.wall_s for cost in data.costs)
    rows = "".join(_cost_row(cost, longest) for cost in data.costs)
    return (
        f'<p class="note">{duration(total)} in all stages. Memory is the largest sum of PSS over '
        'the process tree while the stage ran.</p><div class="scroll"><table><thead><tr>'
        '<th>stage</th><th></th><th class="num">time</th><th class="num">peak memory</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cost_row(cost: StageCost, longest: float) -> str:
    memory = size(cost.peak_pss_bytes) if cost.peak_pss_bytes is not None else "–"
    note = ", ".join(
        part for part in ("" if cost.state == "done" else cost.state, cost.note) if part
    )
    small = f"<small>{escape(note)}</small>" if note else ""
    return (
        f"<tr><td>{escape(words(cost.stage))}{small}</td>"
        f'<td style="width:45%">{bar(cost.wall_s / longest)}</td>'
        f'<td class="num">{duration(cost.wall_s)}</td><td class="num">{memory}</td></tr>'
    )
