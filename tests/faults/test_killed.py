"""SIGKILL at any moment: the run that goes on ends as if nothing had happened."""

import random
import signal
import time
from pathlib import Path

import pytest

from faults.course import Course, send
from faults.likeness import left_over

KILLS, SAMPLED = 30, {3, 11, 20, 28}
CHANGES = 12


def sampled(number: int, chosen: set[int]):
    return pytest.param(number, marks=() if number in chosen else pytest.mark.faults)


@pytest.mark.parametrize("number", [sampled(number, SAMPLED) for number in range(KILLS)])
def test_a_kill_at_a_random_moment_changes_nothing(course: Course, out: Path, number: int, draw: random.Random):
    moment = course.seconds * (number + draw.random()) / KILLS

    started = course.start(out)
    time.sleep(moment)
    started.signal(signal.SIGKILL)
    trial = course.gone_on(out, started.end())

    assert trial.continued() == [], f"killed after {moment:.3f} s"
    assert left_over(out) == []


@pytest.mark.parametrize("number", [sampled(number, {5}) for number in range(CHANGES)])
def test_a_kill_between_two_changes_to_files_changes_nothing(
    course: Course, out: Path, number: int, draw: random.Random
):
    nth = 1 + 8 * number + draw.randrange(8)

    trial = course.trial(out, faults=[{"at": str(out), "nth": nth, "do": "send", "number": signal.SIGKILL}])

    assert trial.first.status == -signal.SIGKILL, trial.first.said
    assert trial.continued() == [], f"killed before change {nth}"
    assert left_over(out) == []


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.faults
def test_a_kill_between_checkpoint_and_adapter_keeps_the_best_adapter(course: Course, out: Path, nth: int):
    trial = course.trial(out, faults=[send(signal.SIGKILL, at="adapter", nth=nth)])

    assert trial.continued() == []


@pytest.mark.faults
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(course: Course, out: Path, draw: random.Random):
    for _ in range(4):
        started = course.start(out)
        time.sleep(course.seconds * draw.uniform(0.3, 0.9))
        started.signal(signal.SIGKILL)
        ended = started.end()

    trial = course.gone_on(out, ended)

    assert trial.continued() == []
