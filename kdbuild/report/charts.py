"""Small charts as inline SVG. Every text goes through markupsafe: names come from specs and rows."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 460, 210
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 40
Points = Sequence[tuple[float, float]]


def number(value: float) -> str:
    """Return a number with thousands separators, or four significant digits."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.2g}"


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Return round values (whole numbers if `whole`) that span [low, high]: about `count` of them, at least two."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = max((high - low) / count, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def lines(curve: Points, *, x_name: str, y_name: str) -> Markup:
    """Return one curve over its steps, which are whole numbers; what it is, `y_name`, stands in the caption."""
    x_ticks = ticks(min(x for x, _ in curve), max(x for x, _ in curve), whole=True)
    y_ticks = ticks(min(y for _, y in curve), max(y for _, y in curve))
    scale = _Scale(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in curve)
    last_x, last_y = curve[-1]
    inside = [
        _axes(scale, x_ticks, y_ticks, x_name),
        Markup('<polyline class="line" points="{}"/>').format(path),
        Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(scale.x(last_x), scale.y(last_y)),
    ]
    told = f"{y_name} over {x_name}: from {number(curve[0][1])} to {number(last_y)}"
    return _svg(inside, told)


def histogram(values: Sequence[int], *, x_name: str, y_name: str, max_bins: int = 24) -> Markup:
    """Return how often values fall into bins of equal width; the last edge is included."""
    edges = bins(values, max_bins)
    width = edges[1] - edges[0]
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min((value - edges[0]) // width, len(counts) - 1)] += 1
    y_ticks = ticks(0, max(counts), 4, whole=True)
    scale = _Scale(edges[0], edges[-1], 0, y_ticks[-1])
    shown = [edge for i, edge in enumerate(edges) if i % max(1, math.ceil(len(edges) / 9)) == 0]
    inside = [_axes(scale, shown, y_ticks, x_name)]
    for left, count in zip(edges, counts, strict=False):
        x, y = scale.x(left) + 1, scale.y(count)
        wide = max(scale.x(left + width) - scale.x(left) - 2, 1)
        bar = '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {}</title></rect>'
        told = f"{left} to {left + width - 1}" if width > 1 else str(left)
        inside.append(Markup(bar).format(x, y, wide, scale.y(0) - y, told, number(count)))
    return _svg(inside, f"{y_name} by {x_name}")


def split(kept: Sequence[float], dropped: Sequence[float], *, x_name: str) -> Markup:
    """Return how often sorted values of kept and of dropped rows fall into some twenty bins of equal width, one on the other.

    A few values far out would leave all others in one bin: then what lies beyond the first or last hundredth is in the outer bins.
    """
    low, high = _middle(sorted([*kept, *dropped]))
    edges = ticks(low, high, 20)
    counts = [(below, above) for below, above in zip(_counts(kept, edges), _counts(dropped, edges), strict=True)]
    y_ticks = ticks(0, max(below + above for below, above in counts), 4, whole=True)
    scale = _Scale(edges[0], edges[-1], 0, y_ticks[-1])
    shown = [edge for i, edge in enumerate(edges) if i % max(1, math.ceil(len(edges) / 7)) == 0]
    inside = [_axes(scale, shown, y_ticks, x_name)]
    for i, (below, above) in enumerate(counts):
        told = f"{number(edges[i])} to {number(edges[i + 1])}: {number(below)} kept, {number(above)} dropped"
        x, wide = scale.x(edges[i]) + 1, max(scale.x(edges[i + 1]) - scale.x(edges[i]) - 2, 1)
        inside.append(_bar("bar", x, wide, scale.y(below), scale.y(0), told))
        inside.append(_bar("bar out", x, wide, scale.y(below + above), scale.y(below), told))
    return _svg(inside, f"rows by {x_name}, kept and dropped")


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """Return the range to show of sorted values: all of it, or from the first to the last hundredth where that is a small part."""
    rank = len(values) // 100
    low, high = values[rank], values[-1 - rank]
    return (low, high) if 0 < high - low < (values[-1] - values[0]) / 4 else (values[0], values[-1])


def _counts(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Return how many of sorted values lie in each bin; the outer ones take what lies beyond them."""
    ranks = [0, *(bisect_left(values, edge) for edge in edges[1:-1]), len(values)]
    return [after - before for before, after in itertools.pairwise(ranks)]


def _bar(kind: str, x: float, wide: float, top: float, foot: float, told: str) -> Markup:
    bar = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
    return Markup(bar).format(kind, x, top, wide, foot - top, told) if foot > top else Markup("")


def bins(values: Sequence[int], max_bins: int) -> list[int]:
    """Return edges of bins of equal whole width, a round one, that hold every value."""
    low, high = min(values), max(values) + 1
    raw = max(1, math.ceil((high - low) / max_bins))
    power = 10 ** (len(str(raw)) - 1)
    width = next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= raw)
    start = low // width * width
    return list(range(start, high + width, width))


def compare(values: Mapping[str, float], *, label: int = 104) -> Markup:
    """Return one horizontal bar a name, all on one scale from 0; `label` is the room for a name."""
    row, room = 26, 170
    most = max([*values.values(), 0.0]) or 1.0
    inside = []
    for i, (name, value) in enumerate(values.items()):
        middle = i * row + row / 2
        wide = max(room * max(value, 0.0) / most, 1)
        inside += [
            Markup('<text class="name" x="{}" y="{:.0f}" text-anchor="end">{}</text>').format(
                label - 8, middle + 4, _short(name, label * 14 // 104)
            ),
            Markup('<rect class="bar" x="{}" y="{:.0f}" width="{:.1f}" height="14"/>').format(label, middle - 7, wide),
            Markup('<text class="tick" x="{:.1f}" y="{:.0f}">{}</text>').format(label + wide + 6, middle + 4, number(value)),
        ]
    told = ", ".join(f"{name} {number(value)}" for name, value in values.items())
    return _svg(inside, told, width=label + room + 66, height=len(values) * row)


class _Scale:
    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self._x, self._y = (x_low, x_high), (y_low, y_high)

    def x(self, value: float) -> float:
        low, high = self._x
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)


def _axes(scale: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str) -> Markup:
    parts = []
    for y in y_ticks:
        at = scale.y(y)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, at, at))
        parts.append(Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, at + 4, number(y)))
    for x in x_ticks:
        place = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
        parts.append(place.format(scale.x(x), HEIGHT - BOTTOM + 16, number(x)))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text class="name" x="{:.0f}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 4, x_name))
    return Markup("").join(parts)


def _svg(inside: Sequence[Markup], told: str, *, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    frame = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return frame.format(width, height, told, Markup("").join(inside))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
