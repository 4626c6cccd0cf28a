"""Drawings of scores: histograms, and how many samples every bound would keep."""

import math
from collections.abc import Mapping, Sequence

from pipeline.evaluation.svg import Frame, Scale, axes, drawing, path, short, text, thinned
from pipeline.looking.distributions import Distribution, rebinned
from pipeline.looking.page import Plot

NUM_BARS = 60
SERIES = ("all", "one", "two", "three")
"""CSS classes: all samples, then profiles in order; further ones look like the last."""
PLOT_CSS = """
:root{--c:#7a4fc0;--d:#1f8a55}
@media (prefers-color-scheme:dark){:root{--c:#b294ee;--d:#56c48e}}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.all{stroke:var(--a);stroke-width:5;opacity:.4}.line.one{stroke:var(--b)}.line.two{stroke:var(--c)}
.line.three{stroke:var(--d)}
i.all{background:var(--a)}i.one{background:var(--b)}i.two{background:var(--c)}
i.three{background:var(--d)}
.mark{stroke-width:1.5;stroke-dasharray:5 3}
.mark.all{stroke:var(--ink)}.mark.one{stroke:var(--b)}.mark.two{stroke:var(--c)}
.mark.three{stroke:var(--d)}
rect.bin{fill:var(--a)}
"""


class FineScale(Scale):
    """A linear scale with about eight values."""

    def ticks(self) -> list[float | int]:
        """Round values inside the axis."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        magnitude = 10.0 ** math.floor(math.log10(span / 8))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= span / 8)
        if float(self.low).is_integer() and float(self.high).is_integer() and span >= 2:
            step = max(1.0, step)  # whole numbers have nothing between them
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(step * place, 12) for place in range(first, last + 1)]


def sweep(found: Distribution) -> Plot:
    """Kept samples over every bound, of all samples and of each profile, bounds marked."""
    frame = Frame(width=760, height=300, left=60, top=24)
    x, y = _scales(found, max(found.num, 1))
    side = "at most" if found.is_upper else "at least"
    parts = axes(frame, x, y, f"{found.column} {side}", "samples kept")
    legend = [("all", "all samples")]
    series = [("all", found.counts), *zip(_css(found), found.reached.values(), strict=True)]
    edges = [float(edge) for edge in found.edges]
    for css, counts in series:
        kept = [int(count) for count in found.kept_by_edge(counts)]
        points = list(zip(thinned(edges), thinned(kept), strict=True))
        parts.append(path(frame, x, y, points, f"line {css}"))
    legend += [(css, name) for css, name in zip(_css(found), found.reached, strict=True)]
    css_of = dict(zip(found.reached, _css(found), strict=True))
    parts += _marks(found, frame, x, css_of)
    return Plot(drawing(frame, parts, f"samples kept over bounds on {found.column}"), legend)


def histogram(found: Distribution) -> Plot:
    """Samples per interval of a score, bounds marked."""
    frame = Frame(width=760, height=240, left=60, top=24)
    edges, counts = rebinned(found, NUM_BARS)
    x, y = _scales(found, max(counts))
    parts = axes(frame, x, y, found.column, "samples")
    base = frame.y(0.0)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        left, right, top = frame.x(x.share(low)), frame.x(x.share(high)), frame.y(y.share(count))
        width = max(0.5, right - left - 0.6)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{base - top:.1f}" '
            'class="bin"/>'
        )
    return Plot(
        drawing(frame, [*parts, *_marks(found, frame, x, {})], f"histogram of {found.column}")
    )


def _css(found: Distribution) -> list[str]:
    return [SERIES[min(place, len(SERIES) - 1)] for place in range(1, len(found.reached) + 1)]


def _scales(found: Distribution, top: int) -> tuple[Scale, Scale]:
    low, high = float(found.edges[0]), float(found.edges[-1])
    marks = [limit for bound in found.bounds for limit in (bound.least, bound.most)]
    ends = [low, high, *(limit for limit in marks if limit is not None)]
    return FineScale(min(ends), max(ends)), Scale(0, top * 1.04)


def _marks(found: Distribution, frame: Frame, x: Scale, css_of: Mapping[str, str]) -> list[str]:
    """A line for each profile's bound, with its name beside the top."""
    parts: list[str] = []
    limits = [
        (bound.profile, limit, sign)
        for bound in found.bounds
        for limit, sign in ((bound.least, "≥"), (bound.most, "≤"))
        if limit is not None
    ]
    for place, (profile, limit, sign) in enumerate(limits):
        across = frame.x(x.share(limit))
        css = css_of.get(profile, "all")
        parts.append(
            f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{frame.top - 8}" '
            f'y2="{frame.height - frame.bottom}" class="mark {css}"/>'
        )
        parts.append(_mark_name(f"{profile} {sign} {short(limit)}", across, frame, place))
    return parts


def _mark_name(name: str, across: float, frame: Frame, place: int) -> str:
    is_right = across > frame.width * 0.7
    anchor, shift = ("end", -5) if is_right else ("start", 5)
    return text(across + shift, frame.top + 12 * place, name, "label", anchor)


def thresholds(found: Distribution, shares: Sequence[float]) -> list[tuple[float, int, float]]:
    """Bounds that keep about these shares, and something: bound, samples kept, share kept."""
    if not found.num:
        return []
    kept = found.kept_by_edge(found.counts).astype(float)
    kept[kept == 0] = -found.num
    rows = []
    for share in shares:
        place = int(abs(kept - share * found.num).argmin())
        rows.append((float(found.edges[place]), int(kept[place]), int(kept[place]) / found.num))
    return list(dict.fromkeys(rows))
