"""What the charts of a page show: training's curves out of the log, histograms out of captions and scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from captioncrafter.errors import counted
from captioncrafter.events import duration
from captioncrafter.report.charts import Bars, Line, Role, histogram, line_chart
from captioncrafter.report.content import ReportData, System, hundredfold

_SMOOTHED_OVER = 1 / 12
_MOST_RAW_POINTS = 600
_MOST_BINS = 24
_ROLES: tuple[Role, ...] = ("subject", "base", "third", "fourth", "fifth")


@dataclass(frozen=True)
class Figure:
    """A chart with its heading and the sentence below it; `legend` names what is not named within the chart."""

    title: str
    chart: Markup
    note: str
    legend: Sequence[tuple[str, Role]] = ()


@dataclass(frozen=True)
class _Group:
    """Values that one histogram counts; two runs may bear the same name."""

    name: str
    role: Role
    values: Sequence[float]


def training_figures(systems: Sequence[System]) -> list[Figure]:
    """The subject's loss, and the CIDEr curve of all, as far as logs hold them; values not finite are left out."""
    return [figure for figure in (_loss_figure(systems[0].log), _cider_figure(systems)) if figure]


def caption_figures(data: ReportData, metric: str | None) -> list[Figure]:
    """Histograms of caption lengths and of the per-image values of `metric`."""
    figures = [_length_figure(data)]
    if metric and any(_image_values(system, metric) for system in data.systems):
        figures.append(_score_figure(data, metric))
    return figures


def role_of(position: int) -> Role:
    """The role of the system at `position`: the subject's, its base's, then others', whose three take turns."""
    return _ROLES[position] if position < len(_ROLES) else _ROLES[2 + (position - 2) % (len(_ROLES) - 2)]


def _loss_figure(log: Sequence[Mapping[str, Any]]) -> Figure | None:
    rows = _rows(log, "step", "loss")
    points = [(float(row["step"]), float(row["loss"])) for row in rows]
    if not points:
        return None
    smooth = _smoothed(points)
    first, last = smooth[0][1], smooth[-1][1]
    line = Line(f"{last:.2f}", smooth, "subject", faint=_thinned(points))
    chart = line_chart(
        [line],
        x_title="step",
        y_title="loss, nats a token",
        description=f"Training loss by step, from {first:.2f} to {last:.2f} nats a token over "
        f"{counted(len(points), 'log row')}.",
    )
    return Figure("Training loss", chart, f"From {first:.2f} to {last:.2f} nats a token{_pace(log)}.")


def _pace(log: Sequence[Mapping[str, Any]]) -> str:
    """How far and how fast training went, as the end of a sentence."""
    steps = [row for row in log if row.get("kind") == "step"]
    parts = []
    if epoch := steps[-1].get("epoch"):
        parts.append(f" in {counted(steps[-1]['step'], 'step')}, {epoch:.3g} epoch{'' if epoch == 1 else 's'}")
    if seconds := [row["seconds"] for row in log if "seconds" in row and row.get("kind") == "step"]:
        parts.append(f" and {duration(seconds[-1])}")
    if rates := sorted(row["captions_per_s"] for row in steps if "captions_per_s" in row):
        parts.append(f", at {rates[len(rates) // 2]:,.0f} captions a second")
    return "".join(parts)


def _cider_figure(systems: Sequence[System]) -> Figure | None:
    """The subject's curve with its best point ringed; others', where they have one, are told apart by a legend."""
    rows = _rows(systems[0].log, "validation", "CIDEr")
    if not rows:
        return None
    points = _curve(rows, "CIDEr")
    best = max((k for k, row in enumerate(rows) if row.get("best")), default=None)
    beside = [
        (place, curve)
        for place, system in enumerate(systems[1:], start=1)
        if (curve := _curve(_rows(system.log, "validation", "CIDEr"), "CIDEr"))
    ]
    lines = [Line("", curve, role_of(place), dotted=True) for place, curve in beside]
    ringed = () if best is None else (best,)
    lines.append(Line("" if beside else "CIDEr", points, "subject", dotted=True, ringed=ringed))
    shuffled = _curve(_rows(rows, "validation", "shuffled_CIDEr"), "shuffled_CIDEr")
    if shuffled:
        lines.append(Line("shuffled", shuffled, "shuffled", dotted=True))
    spoken = ", ".join(f"{value:.1f} at step {step:.0f}" for step, value in points)
    chart = line_chart(
        lines, x_title="step", y_title="CIDEr × 100", description=f"Validation CIDEr by training step: {spoken}."
    )
    kept = (
        f"The adapter of step {rows[best]['step']:,} was kept: CIDEr {points[best][1]:.1f}." if best is not None else ""
    )
    below = " Dotted: the same captions dealt out to other images." if shuffled else ""
    shown = (0, *(place for place, _ in beside)) if beside else ()
    legend: list[tuple[str, Role]] = [(systems[place].name, role_of(place)) for place in shown]
    return Figure("Validation CIDEr", chart, f"{kept}{below}".strip(), legend)


def _curve(rows: Sequence[Mapping[str, Any]], value: str) -> list[tuple[float, float]]:
    """A score by step, times 100."""
    return [(float(row["step"]), 100 * row[value]) for row in rows]


def _rows(log: Iterable[Mapping[str, Any]], kind: str, value: str) -> list[Mapping[str, Any]]:
    return [row for row in log if row.get("kind") == kind and math.isfinite(row.get(value, math.nan))]


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean over the neighbours on both sides, so that the line does not lag behind the points."""
    reach = int(len(points) * _SMOOTHED_OVER / 2)
    values = [value for _, value in points]
    smooth = []
    for position, (x, _) in enumerate(points):
        around = min(reach, position, len(points) - 1 - position)
        near = values[position - around : position + around + 1]
        smooth.append((x, sum(near) / len(near)))
    return _thinned(smooth)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every k-th point and the last, so that a long log does not weigh the page down."""
    every = math.ceil(len(points) / _MOST_RAW_POINTS)
    kept = list(points[::every])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _length_figure(data: ReportData) -> Figure:
    groups = [
        _Group(system.name, role_of(place), _lengths(system.predictions.values()))
        for place, system in enumerate(data.systems)
    ]
    groups += [_Group("people", "people", _lengths(data.people))] if data.people else []
    longest = max((length for group in groups for length in group.values), default=0)
    step = math.ceil((longest + 1) / _MOST_BINS)
    edges = [step * k - 0.5 for k in range(math.ceil((longest + 1) / step) + 1)]
    spoken = ", ".join(f"{group.name} {sum(group.values) / len(group.values):.1f}" for group in groups if group.values)
    chart = histogram(
        [Bars(_shares(group.values, edges), group.role) for group in groups],
        edges,
        x_title="words",
        y_title="% of captions",
        description=f"Histogram of caption lengths. Means: {spoken} words.",
        whole=True,
    )
    return Figure("Caption length", chart, f"Mean words in a caption: {spoken}.", _legend(groups))


def _score_figure(data: ReportData, metric: str) -> Figure:
    measured = [
        _Group(system.name, role_of(place), _image_values(system, metric)) for place, system in enumerate(data.systems)
    ]
    groups = [group for group in measured if group.values]
    top = max(value for group in groups for value in group.values) or 1.0
    edges = [100 * top * k / _MOST_BINS for k in range(_MOST_BINS + 1)]
    medians = ", ".join(f"{group.name} {hundredfold(median(group.values))}" for group in groups)
    chart = histogram(
        [Bars(_shares([100 * value for value in group.values], edges), group.role) for group in groups],
        edges,
        x_title=f"{metric} × 100, one image",
        y_title="% of images",
        description=f"Histogram of {metric} over images. Medians: {medians}.",
    )
    return Figure(f"{metric}, image by image", chart, f"Median: {medians}.", _legend(groups))


def _legend(groups: Sequence[_Group]) -> list[tuple[str, Role]]:
    return [(group.name, group.role) for group in groups]


def _lengths(captions: Iterable[str]) -> list[float]:
    return [len(caption.split()) for caption in captions]


def _image_values(system: System, metric: str) -> list[float]:
    values = (system.image_score(image_id, metric) for image_id in system.predictions)
    return [value for value in values if value is not None]


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    """Percent of the values in each bin; one at the last edge is in the last bin."""
    counts = [0] * (len(edges) - 1)
    width = (edges[-1] - edges[0]) / len(counts)
    for value in values:
        counts[min(int((value - edges[0]) / width), len(counts) - 1)] += 1
    return [100 * count / max(len(values), 1) for count in counts]
