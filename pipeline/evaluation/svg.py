"""Small, sharp SVG drawings for the report: no library, no script, colours from the page's CSS.

Classes used: ``axis`` (thin lines), ``tick`` and ``label`` (text), ``series-1``, ``series-2``
(lines), ``dot-1``, ``dot-2`` (dots), ``span`` (a value's interval), ``faint`` (thin raw lines),
``interval``, ``point``, ``chance``.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Number = float | int
"""Coordinates and values; whole numbers are as good as any."""
MAX_POINTS = 400
"""Points drawn per line; longer series are thinned evenly."""


@dataclass(frozen=True)
class Frame:
    """The plotting area of a drawing, in SVG units."""

    width: int = 640
    height: int = 260
    left: int = 52
    right: int = 20
    top: int = 14
    bottom: int = 38

    def x(self, share: Number) -> float:
        """Horizontal place of a share in [0, 1] of the axis."""
        return self.left + share * (self.width - self.left - self.right)

    def y(self, share: Number) -> float:
        """Vertical place of a share in [0, 1] of the axis, 0 at the bottom."""
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)


@dataclass(frozen=True)
class Scale:
    """Maps values to shares of an axis, linearly or by logarithm."""

    low: Number
    high: Number
    is_log: bool = False

    def share(self, value: Number) -> float:
        """Where the value lies, 0 to 1; values outside are moved to the ends."""
        if self.is_log:
            low, high, value = (math.log10(max(v, 1e-12)) for v in (self.low, self.high, value))
        else:
            low, high = self.low, self.high
        if high <= low:
            return 0.5
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self) -> list[Number]:
        """About four round values inside the axis."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, math.ceil((last - first) / 5))
            return [10.0**power for power in range(first, last + 1, step)]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / 4
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def short(value: Number) -> str:
    """A number as an axis label: ``12k``, ``0.25``, ``3.1M``."""
    size = abs(value)
    for limit, divisor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{value / divisor:.3g}{suffix}"
    return f"{value:.0f}" if size >= 100 else f"{value:.3g}"


def text(x: Number, y: Number, content: str, css: str = "tick", anchor: str = "start") -> str:
    """A line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">'
        f"{html.escape(content)}</text>"
    )


def drawing(frame: Frame, parts: Sequence[str], label: str) -> str:
    """Wrap parts as an image with a name for screen readers."""
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">{"".join(parts)}</svg>'
    )


def axes(frame: Frame, x: Scale, y: Scale, x_label: str, y_label: str) -> list[str]:
    """Grid lines with values on both axes, and their names."""
    parts = []
    for value in y.ticks():
        place = frame.y(y.share(value))
        parts.append(
            f'<line x1="{frame.left}" x2="{frame.width - frame.right}" y1="{place:.1f}" '
            f'y2="{place:.1f}" class="axis"/>'
        )
        parts.append(text(frame.left - 7, place + 3.5, short(value), anchor="end"))
    base = frame.height - frame.bottom
    parts.extend(
        text(frame.x(x.share(value)), base + 15, short(value), anchor="middle")
        for value in x.ticks()
    )
    parts.append(text(frame.x(0.5), frame.height - 4, x_label, "label", "middle"))
    middle = frame.y(0.5)
    parts.append(
        f'<g transform="rotate(-90 11 {middle:.1f})">'
        f"{text(11, middle, y_label, 'label', 'middle')}</g>"
    )
    return parts


def thinned(values: Sequence[Number]) -> list[Number]:
    """At most ``MAX_POINTS`` values, evenly chosen, first and last kept."""
    if len(values) <= MAX_POINTS:
        return list(values)
    step = (len(values) - 1) / (MAX_POINTS - 1)
    return [values[round(place * step)] for place in range(MAX_POINTS)]


def smoothed(values: Sequence[Number], share: float = 0.08) -> list[Number]:
    """Centred moving average over ``share`` of the series."""
    half = max(0, round(len(values) * share / 2))
    if half == 0:
        return list(values)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    bounds = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in bounds]


def path(
    frame: Frame, x: Scale, y: Scale, points: Sequence[tuple[Number, Number]], css: str
) -> str:
    """A line through points in data units."""
    steps = (f"{frame.x(x.share(a)):.1f},{frame.y(y.share(b)):.1f}" for a, b in points)
    return f'<polyline points="{" ".join(steps)}" class="{css}"/>'


def loss_curve(samples_seen: Sequence[Number], loss: Sequence[Number], label: str) -> str:
    """A training curve: raw values faint, a moving average on top; logarithmic if it spans 20×."""
    frame = Frame(width=360, height=220, left=58)
    pairs = [(s, v) for s, v in zip(samples_seen, loss, strict=True) if math.isfinite(v)]
    if not pairs:
        return ""
    seen, values = thinned([s for s, _ in pairs]), thinned([v for _, v in pairs])
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > 20
    margin = 0.0 if is_log else (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    x, y = Scale(0.0, max(seen)), Scale(low - margin, high + margin, is_log)
    parts = [
        *axes(frame, x, y, "samples seen", "loss"),
        path(frame, x, y, list(zip(seen, values, strict=True)), "faint"),
        path(frame, x, y, list(zip(seen, smoothed(values), strict=True)), "series-1"),
    ]
    return drawing(frame, parts, label)


def interval_lines(
    x: Sequence[Number],
    series: Mapping[str, Sequence[tuple[Number, Number, Number]]],
    x_label: str,
    label: str,
) -> str:
    """Values over a number, with their intervals; one or two lines.

    Args:
        x: Rising numbers.
        series: By name, value and both ends of its interval for each of ``x``.
        x_label: Name of the horizontal axis.
        label: Name of the drawing.
    """
    frame = Frame(width=360, height=240, left=58)
    ends = [end for rows in series.values() for row in rows for end in row]
    margin = (max(ends) - min(ends)) * 0.05 or abs(max(ends)) * 0.05 or 1.0
    across, up = Scale(min(x), max(x)), Scale(min(ends) - margin, max(ends) + margin)
    parts = axes(frame, across, up, x_label, "")
    for place, rows in enumerate(series.values(), 1):
        values = [value for value, _, _ in rows]
        parts.append(path(frame, across, up, list(zip(x, values, strict=True)), f"series-{place}"))
        for at, (value, low, high) in zip(x, rows, strict=True):
            left, top, bottom = frame.x(across.share(at)), up.share(high), up.share(low)
            parts.append(
                f'<line x1="{left:.1f}" x2="{left:.1f}" y1="{frame.y(top):.1f}" '
                f'y2="{frame.y(bottom):.1f}" class="series-{place} span"/>'
                f'<circle cx="{left:.1f}" cy="{frame.y(up.share(value)):.1f}" r="3.5" '
                f'class="dot-{place}"/>'
            )
    return drawing(frame, parts, label)


def rank_plot(before: Sequence[Number], after: Sequence[Number], label: str) -> str:
    """Counts by rank, both axes logarithmic: dots before, a line after; zeros drawn at 0.5."""
    frame = Frame(width=760, height=300)
    total = len(before)
    places = sorted({round(10 ** (math.log10(max(total, 2)) * i / 299)) for i in range(300)})
    ranks = [rank for rank in places if 1 <= rank <= total]
    x = Scale(1.0, float(max(total, 2)), is_log=True)
    y = Scale(0.5, float(max([*before, *after, 2])) * 1.2, is_log=True)
    parts = axes(frame, x, y, "query, most frequent first", "pairs")
    for rank in ranks:
        place = (frame.x(x.share(rank)), frame.y(y.share(max(before[rank - 1], 0.5))))
        parts.append(f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="2.4" class="dot-1"/>')
    parts.append(path(frame, x, y, [(r, max(after[r - 1], 0.5)) for r in ranks], "series-2"))
    return drawing(frame, parts, label)


def interval_bar(value: Number, low: Number, high: Number, chance: Number | None = None) -> str:
    """A share in [0, 1] as a dot with its interval on a thin track, with a mark at chance."""
    frame = Frame(width=200, height=18, left=4, right=4, top=0, bottom=0)
    parts = [
        '<line x1="4" x2="196" y1="9" y2="9" class="axis"/>',
        f'<line x1="{frame.x(min(1.0, max(0.0, low))):.1f}" '
        f'x2="{frame.x(min(1.0, max(0.0, high))):.1f}" y1="9" y2="9" class="interval"/>',
        f'<circle cx="{frame.x(min(1.0, max(0.0, value))):.1f}" cy="9" r="4" class="point"/>',
    ]
    if chance is not None:
        place = frame.x(chance)
        parts.insert(1, f'<line x1="{place:.1f}" x2="{place:.1f}" y1="2" y2="16" class="chance"/>')
    return drawing(frame, parts, f"{value:.3f}, 95 % interval {low:.3f} to {high:.3f}")
