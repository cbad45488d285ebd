"""The top of the page: the table of metrics and systems, and what changed, in one sentence."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from captioncrafter.errors import counted
from captioncrafter.report.charts import Interval, interval_strip
from captioncrafter.report.content import ReportData, System, headline_metric, hundredfold, measured_metrics
from captioncrafter.report.figures import role_of
from captioncrafter.report.pairwise import Against


@dataclass(frozen=True)
class Cell:
    """A system's score: the value, its 95 % interval where there is one, and whether no other system is above it."""

    value: str
    interval: str
    best: bool


@dataclass(frozen=True)
class Row:
    """A metric over all systems; a system without a value has None."""

    metric: str
    cells: Sequence[Cell | None]
    strip: Markup


@dataclass(frozen=True)
class Headline:
    """The one metric the page speaks of: before and after in numbers, and the sentences that say what they mean."""

    metric: str
    before: str | None
    after: str
    sentences: Sequence[str]


def score_table(systems: Sequence[System]) -> list[Row]:
    """One row for each metric that some system has a value of."""
    return [row for metric in measured_metrics(systems) if (row := _row(metric, systems))]


def headline(data: ReportData, tested: Collection[Against] = ()) -> Headline | None:
    """What changed from base to subject, or how the subject stands alone; None where no metric has a value.

    `tested` are the differences that were tested over the same images.
    """
    measured = [name for name in measured_metrics([data.subject]) if "value" in data.subject.metric(name)]
    metric = headline_metric(measured)
    if metric is None:
        return None
    after = data.subject.metric(metric)
    before = data.base.metric(metric) if data.base else {}
    if data.base is None or "value" not in before:
        return Headline(metric, None, hundredfold(after["value"]), [_alone(metric, after, data.subject)])
    found = next((one for one in tested if one.metric == metric and one.place == 1), None)
    certainty = _overlap(before, after) if found is None else _tested(found)
    sentences = [
        f"{_moved(metric, before, after, data.base.name)}; {certainty}",
        _wins(metric, data.subject, data.base),
    ]
    return Headline(
        metric, hundredfold(before["value"]), hundredfold(after["value"]), [text for text in sentences if text]
    )


def _row(metric: str, systems: Sequence[System]) -> Row | None:
    measured = [system.metric(metric) for system in systems]
    values = [one["value"] for one in measured if "value" in one]
    if not values:
        return None
    best = max(values) if len(systems) > 1 else None
    cells = [
        Cell(hundredfold(one["value"]), _interval(one), one["value"] == best) if "value" in one else None
        for one in measured
    ]
    top = max(max(one["value"], one.get("high", 0.0)) for one in measured if "value" in one)
    intervals = [
        Interval(one["value"], one.get("low"), one.get("high"), role_of(position))
        for position, one in enumerate(measured)
        if "value" in one
    ]
    return Row(metric, cells, interval_strip(intervals, top))


def _interval(score: Mapping[str, float]) -> str:
    return f"{hundredfold(score['low'])} – {hundredfold(score['high'])}" if _bounded(score) else ""


def _bounded(score: Mapping[str, float]) -> bool:
    return "low" in score and "high" in score


def _alone(metric: str, score: Mapping[str, float], system: System) -> str:
    where = f", on {counted(system.scores['images'], 'image')}" if "images" in system.scores else ""
    bounds = f", 95 % interval {_interval(score)}" if _bounded(score) else ""
    return f"{metric} {hundredfold(score['value'])}{bounds}{where}."


def _moved(metric: str, before: Mapping[str, float], after: Mapping[str, float], beside: str) -> str:
    old, new = hundredfold(before["value"]), hundredfold(after["value"])
    moved = "rises" if after["value"] > before["value"] else "falls"
    return f"{metric} {moved} from {old} ({beside}) to {new}" if old != new else f"{metric} stays at {new} ({beside})"


def _tested(found: Against) -> str:
    """What the test over the same images says of a difference."""
    verdict = "chance in the choice of images hardly explains it" if found.sure else "that may be chance"
    return f"on the same images that is {found.difference} ({found.interval}, {found.chance}): {verdict}."


def _overlap(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """What the two intervals alone say, where nothing was tested."""
    if not (_bounded(before) and _bounded(after)):
        return "how sure that is was not measured."
    if after["low"] > before["high"] or after["high"] < before["low"]:
        return "the 95 % intervals do not touch."
    return "the 95 % intervals overlap, so they alone do not settle which is better."


def _wins(metric: str, subject: System, base: System) -> str:
    """How many images gained and lost, where both systems have per-image values."""
    gains = [
        mine - theirs
        for image_id in subject.predictions
        if (mine := subject.image_score(image_id, metric)) is not None
        and (theirs := base.image_score(image_id, metric)) is not None
    ]
    if not gains:
        return ""
    up, down = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    same = len(gains) - up - down
    return f"Of {counted(len(gains), 'image')} {counted(up, 'gains', 'gain')} and {counted(down, 'loses', 'lose')}" + (
        f"; {counted(same, 'stays as it was', 'stay as they were')}." if same else "."
    )
