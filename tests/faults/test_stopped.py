"""SIGTERM, SIGINT and a time budget: a checkpoint at the next safe point, a status, and the way on."""

import signal
from pathlib import Path

import pytest

from faults.course import Course, send

MOMENTS = {"step": ("batch", 12), "validation": ("validation", 3), "save": ("save", 4)}
full = pytest.mark.faults


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGTERM, "step", marks=full),
        pytest.param(signal.SIGTERM, "validation", marks=full),
        (signal.SIGTERM, "save"),
        pytest.param(signal.SIGINT, "step", marks=full),
        (signal.SIGINT, "validation"),
        pytest.param(signal.SIGINT, "save", marks=full),
    ],
)
def test_a_signal_stops_at_the_next_safe_point_and_says_how_to_go_on(
    course: Course, out: Path, number: signal.Signals, moment: str
):
    at, nth = MOMENTS[moment]

    trial = course.trial(out, faults=[send(number, at=at, nth=nth)])

    assert trial.first.status == 128 + number, trial.first.said
    assert "Give the same command with --resume to go on" in trial.first.said
    assert trial.continued() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["extraction", "preflight"])
@full
def test_a_signal_before_the_first_step_ends_at_once_and_loses_nothing(
    course: Course, out: Path, number: signal.Signals, moment: str
):
    trial = course.trial(out, faults=[send(number, at=moment, nth=1)])

    assert trial.first.status == 128 + number, trial.first.said
    assert f"stopped at once, because {number.name} came" in trial.first.said
    assert "Give the same command again to go on" in trial.first.said
    assert trial.continued() == []


@pytest.mark.parametrize(
    ("number", "nth"),
    [(signal.SIGTERM, 5), pytest.param(signal.SIGTERM, 6, marks=full), pytest.param(signal.SIGINT, 6, marks=full)],
)
def test_a_second_signal_amid_the_save_stops_at_once_and_leaves_a_good_checkpoint(
    course: Course, out: Path, number: signal.Signals, nth: int
):
    """Batch 12 is of step 7, whose save is the third; each is of two files."""
    twice = [send(number, at="batch", nth=12), send(number, at="save", nth=nth)]

    trial = course.trial(out, faults=twice)

    assert trial.first.status == 128 + number, trial.first.said
    assert trial.continued() == []
    assert "Give the same command with --resume to go on" in trial.first.said
    assert "going on after step 6" in trial.second.said
    assert "passed over" not in trial.second.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@full
def test_a_second_signal_amid_a_step_leaves_a_good_checkpoint(course: Course, out: Path, number: signal.Signals):
    twice = [send(number, at="batch", nth=11), send(number, at="batch", nth=12)]

    trial = course.trial(out, faults=twice)

    assert trial.first.status == 128 + number, trial.first.said
    assert trial.continued() == []
    assert "going on after step 6" in trial.second.said


def test_time_budgets_end_a_run_in_parts_with_status_0(course: Course, out: Path):
    """The clock is moved on at a given batch: batch 12 is of step 7, and the second part's fifth of step 10."""
    parts = [course.start(out, "--stop-after", "0.001s").end()]
    for nth in (12, 5):
        hours = {"at": "batch", "nth": nth, "do": "let_pass", "seconds": 7200}
        parts.append(course.start(out, "--stop-after", "1h", faults=[hours]).end())
    trial = course.gone_on(out, parts[-1])

    assert [part.status for part in parts] == [0, 0, 0], parts
    assert "stopped before the first step, because its time is used up" in parts[0].said
    assert "Give the same command again to go on" in parts[0].said
    assert "stopped after step 7" in parts[1].said
    assert "stopped after step 10" in parts[2].said
    assert trial.continued() == []
