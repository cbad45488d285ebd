"""Charts as SVG text: lines over axes, histograms, and small strips for a table's cells.

Nothing here has a colour: every mark carries its `role` as a class, and the page's style sheet colours roles for light,
dark and paper. Numbers in, markup out; knows nothing of runs or scores.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

Role = Literal["subject", "base", "third", "fourth", "fifth", "people", "shuffled"]

WIDTH, HEIGHT = 460, 260
_TOP, _BOTTOM, _LEFT = 30, 34, 40
_LETTER = 6.3
_LABEL_GAP = 15
_LABEL_OFFSET = 11
STRIP_WIDTH = 200
_STRIP_ROW = 11


@dataclass(frozen=True)
class Line:
    """A named curve. `faint` are points shown behind it, `ringed` the positions of points that stand out."""

    label: str
    points: Sequence[tuple[float, float]]
    role: Role
    faint: Sequence[tuple[float, float]] = ()
    dotted: bool = False
    ringed: Sequence[int] = ()


@dataclass(frozen=True)
class Bars:
    """A histogram: the height of each bin."""

    heights: Sequence[float]
    role: Role


@dataclass(frozen=True)
class Interval:
    """A value with what bounds it, where that is known."""

    value: float
    low: float | None
    high: float | None
    role: Role


def line_chart(lines: Sequence[Line], *, x_title: str, y_title: str, description: str) -> Markup:
    """Curves over axes, each named at its end; `description` is what a person who cannot see it hears.

    Where all x are whole numbers, so are the ticks under them. The vertical axis starts at zero, unless all values
    lie in the upper half of what it would then span.
    """
    everything = [point for line in lines for point in (*line.points, *line.faint)]
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    low = 0.0 if 0 <= min(ys) < max(ys) / 2 or min(ys) == max(ys) else min(ys)
    across = (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
    counted = all(float(x).is_integer() for x in xs)
    frame = _Frame(across, ticks(*across, whole=counted), ticks(low, max(ys)), _room(line.label for line in lines))
    marks = [frame.axes(x_title, y_title)]
    marks += [_dots(frame, line.faint, f"raw {line.role}") for line in lines if line.faint]
    marks += [_curve(frame, line) for line in lines]
    ends = [(frame.y(line.points[-1][1]), line) for line in lines]
    marks += [
        _text(frame.x(line.points[-1][0]) + _LABEL_OFFSET, y + 4, line.label, f"label {line.role}")
        for y, line in _apart(ends)
    ]
    return _svg(marks, description)


def histogram(
    bars: Sequence[Bars],
    edges: Sequence[float],
    *,
    x_title: str,
    y_title: str,
    description: str,
    whole: bool = False,
) -> Markup:
    """Histograms over the same bins: the subject's filled, the others as outlines; what is which, a legend must say.

    Bin k reaches from `edges[k]` to `edges[k + 1]`; with `whole` the ticks under them are whole numbers.
    """
    top = max((height for one in bars for height in one.heights), default=0.0) or 1.0
    across = (edges[0], edges[-1])
    frame = _Frame(across, ticks(*across, whole=whole), ticks(0.0, top, about=4), right=12)
    marks = [frame.axes(x_title, y_title)]
    marks += [_outline(frame, one, edges) for one in sorted(bars, key=lambda one: one.role == "subject")]
    return _svg(marks, description)


def interval_strip(intervals: Sequence[Interval], top: float) -> Markup:
    """One row for each interval, a dot on its whisker, from zero to `top`; for a table's cell beside the numbers."""
    marks = [_axis_line(len(intervals))]
    for row, one in enumerate(intervals):
        y = _STRIP_ROW * (row + 0.5) + 1
        if one.low is not None and one.high is not None:
            marks.append(_segment(_along(one.low, top), _along(one.high, top), y, f"whisker {one.role}"))
        marks.append(_circle(_along(one.value, top), y, 3.2, f"point {one.role}"))
    return _strip(marks, len(intervals))


def gap_strip(real: float, shuffled: float, top: float, role: Role) -> Markup:
    """Two dots on one row, joined: the value with the right images, and with images shuffled (hollow)."""
    y = _STRIP_ROW * 0.5 + 1
    ends = (_along(shuffled, top), _along(real, top))
    marks = [
        _axis_line(1),
        _segment(min(ends), max(ends), y, f"whisker {role}"),
        _circle(ends[0], y, 3.2, f"point hollow {role}"),
        _circle(ends[1], y, 3.6, f"point {role}"),
    ]
    return _strip(marks, 1)


def ticks(low: float, high: float, about: int = 5, *, whole: bool = False) -> list[float]:
    """About as many round numbers as asked; the first is at or below `low`, the last at or above `high`.

    `whole` keeps them whole, where things are counted.
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999]
    step = next((one for one in steps if one.is_integer()), 1.0) if whole else steps[0]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [position * step for position in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """Where values lie on the drawing: it spans `across` sideways, and the ticks upwards."""

    across: tuple[float, float]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    right: float

    def x(self, value: float) -> float:
        low, high = self.across
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_title: str, y_title: str) -> Markup:
        left, right, bottom = _LEFT, WIDTH - self.right, HEIGHT - _BOTTOM
        marks = [_text(0, 12, y_title, "title")]
        for value in self.y_ticks:
            y = self.y(value)
            marks.append(_path(f"M{left} {y:.1f}H{right:.1f}", "axis" if value == self.y_ticks[0] else "grid"))
            marks.append(_text(left - 8, y + 4, _tick(value, self.y_ticks), "tick end"))
        for value in self.x_ticks:
            x = self.x(value)
            if left - 1 <= x <= right + 1:
                marks.append(_path(f"M{x:.1f} {bottom}v4", "axis"))
                marks.append(_text(x, bottom + 17, _tick(value, self.x_ticks), "tick middle"))
        marks.append(_text(right, HEIGHT - 2, x_title, "title end"))
        return Markup("").join(marks)


def _tick(value: float, among: Sequence[float]) -> str:
    step = among[1] - among[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step * 10**decimals, 6) % 1:
        decimals += 1
    return f"{value + 0.0:,.{decimals}f}"


def _room(labels: Iterable[str]) -> float:
    """Space to the right of the curves for their names."""
    return _LABEL_OFFSET + 8 + _LETTER * max((len(label) for label in labels), default=0)


def _apart(ends: Sequence[tuple[float, Line]]) -> list[tuple[float, Line]]:
    """The label positions, moved down where two would overlap."""
    placed: list[tuple[float, Line]] = []
    for y, line in sorted(ends, key=lambda end: end[0]):
        placed.append((max(y, placed[-1][0] + _LABEL_GAP) if placed else y, line))
    return placed


def _curve(frame: _Frame, line: Line) -> Markup:
    places = [(frame.x(x), frame.y(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    marks = [_path(path, f"line {line.role}")]
    if line.dotted or len(places) == 1:
        marks.append(_dots(frame, line.points, f"dots {line.role}"))
    marks += [_circle(*places[position], 6, f"ring {line.role}") for position in line.ringed]
    return Markup("").join(marks)


def _dots(frame: _Frame, points: Sequence[tuple[float, float]], role: str) -> Markup:
    """Points as one path of zero-length strokes with round ends: a tenth of the size of as many circles."""
    return _path("".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in points), role)


def _outline(frame: _Frame, bars: Bars, edges: Sequence[float]) -> Markup:
    path = [f"M{frame.x(edges[0]):.1f} {frame.y(0):.1f}"]
    for height, end in zip(bars.heights, edges[1:], strict=True):
        path.append(f"V{frame.y(height):.1f}H{frame.x(end):.1f}")
    path.append(f"V{frame.y(0):.1f}")
    return _path("".join(path), f"bars {bars.role}")


def _along(value: float, top: float) -> float:
    return 5 + max(0.0, min(value / top, 1.0) if top > 0 else 0.0) * (STRIP_WIDTH - 10)


def _axis_line(rows: int) -> Markup:
    return _path(f"M5 0V{_STRIP_ROW * rows + 2}", "axis")


def _segment(start: float, end: float, y: float, role: str) -> Markup:
    return _path(f"M{start:.1f} {y:.1f}H{end:.1f}", role)


def _circle(x: float, y: float, radius: float, role: str) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"/>').format(x, y, radius, role)


def _path(path: str, role: str) -> Markup:
    return Markup('<path d="{}" class="{}"/>').format(path, role)


def _text(x: float, y: float, text: str, role: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, role, text)


def _strip(marks: Sequence[Markup], rows: int) -> Markup:
    """Hidden from screen readers: the numbers stand beside it."""
    height = _STRIP_ROW * rows + 2
    return Markup('<svg class="strip" viewBox="0 0 {} {}" width="{}" height="{}" aria-hidden="true">{}</svg>').format(
        STRIP_WIDTH, height, STRIP_WIDTH, height, Markup("").join(marks)
    )


def _svg(marks: Sequence[Markup], description: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, description, Markup("").join(marks)
    )
