"""Two trainings in one folder: the second is kept out while the first is at work, and no longer."""

import signal
from pathlib import Path

import pytest

from faults.course import Course, send
from faults.likeness import differences

full = pytest.mark.faults


@pytest.fixture(autouse=True)
def _needs_proc():
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs Linux's /proc to see that a process is stopped")


@pytest.mark.parametrize("moment", [pytest.param(("extraction", 1), marks=full), ("batch", 12)])
def test_a_second_training_is_refused_and_the_first_goes_on_unharmed(
    course: Course, out: Path, moment: tuple[str, int]
):
    at, nth = moment
    first = course.start(out, faults=[send(signal.SIGSTOP, at=at, nth=nth)]).frozen()

    second = course.start(out).end()
    first.signal(signal.SIGCONT)
    ended = first.end()

    assert second.status == 2, second.said
    assert f"{out}: another training is at work there (process {first.process})" in second.said
    assert ended.status == 0, ended.said
    assert differences(out, course.whole) == []


@full
def test_one_that_was_killed_keeps_nobody_out(course: Course, out: Path):
    first = course.start(out, faults=[send(signal.SIGSTOP, at="batch", nth=12)]).frozen()
    first.signal(signal.SIGKILL)

    trial = course.gone_on(out, first.end())

    assert trial.continued() == []


@full
def test_a_second_pair_is_refused_in_both_its_processes(course: Course, out: Path):
    pair = course.start_together(out, faults={0: [send(signal.SIGSTOP, at="batch", nth=9)]})
    pair[0].frozen()

    second = [one.end() for one in course.start_together(out)]
    pair[0].signal(signal.SIGCONT)
    ends = [one.end() for one in pair]

    assert [one.status for one in second] == [2, 2], "\n".join(one.said for one in second)
    assert [f"process {pair[0].process}" in one.said for one in second] == [True, False]
    assert [one.status for one in ends] == [0, 0], "\n".join(one.said for one in ends)


@full
def test_without_its_guard_a_second_training_works_in_the_folder_of_the_first(course: Course, out: Path):
    first = course.start(out, faults=[send(signal.SIGSTOP, at="batch", nth=12)]).frozen()

    second = course.start(out, without=["one training at a time is at work in a folder"]).end()
    first.signal(signal.SIGKILL)
    first.end()

    assert second.status == 0
