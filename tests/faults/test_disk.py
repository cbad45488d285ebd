"""A disk that is full, or a folder in which nothing may be written: a clear end, nothing torn, and the way on."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioncrafter.training import checkpoint
from faults.course import Course, send
from faults.likeness import left_over

full = pytest.mark.faults


@pytest.fixture
def disk(out: Path) -> Iterator[Path]:
    """A file system of its own, of 400 kB; the run folder is in it. Skipped where mounting is not allowed."""
    out.parent.mkdir(exist_ok=True)
    if not mounted(out.parent, "400k"):
        pytest.skip("needs the right to mount a file system")
    yield out.parent
    subprocess.run(["umount", str(out.parent)], check=True)


def mounted(folder: Path, size: str, *options: str) -> bool:
    """Mounts a file system in memory, or changes the one that is there; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "captioncrafter", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def whole(run: Path) -> bool:
    """Whether every checkpoint of the run is as it was written, and nothing half-written is beside it."""
    faults = [checkpoint._fault(path) for path in (run / "checkpoints").glob("step-*")]
    return not any(faults) and not left_over(run)


@pytest.mark.parametrize("nth", [pytest.param(1, marks=full), 5, pytest.param(10, marks=full)])
def test_a_write_that_fails_ends_the_run_and_leaves_the_last_good_checkpoint(course: Course, out: Path, nth: int):
    limit = {"at": "save", "nth": nth, "do": "limit_file_size", "size": 20_000}

    trial = course.trial(out, faults=[limit], harm=lambda run: check(whole(run)))

    assert trial.first.status == 1, trial.first.said
    assert os.strerror(errno.EFBIG) in trial.first.said
    assert trial.continued() == []
    assert "passed over" not in trial.second.said


def check(fact: bool) -> None:
    assert fact


@pytest.mark.parametrize("size", [pytest.param("100k", marks=full), "300k", pytest.param("500k", marks=full)])
def test_a_full_disk_ends_the_run_and_leaves_the_last_good_checkpoint(course: Course, out: Path, disk: Path, size: str):
    assert mounted(disk, size, "remount")

    first = course.start(out, environment={"CAPTIONCRAFTER_CACHE": str(disk / "run-cache")}).end()
    torn = not whole(out)
    assert mounted(disk, "64m", "remount")
    trial = course.gone_on(out, first)

    assert first.status == 1, first.said
    assert os.strerror(errno.ENOSPC) in first.said
    assert not torn, first.said
    assert trial.continued() == []
    assert "passed over" not in trial.second.said


@pytest.mark.parametrize("moment", [("batch", 16), ("save", 6), ("adapter", 2)])
@full
def test_a_disk_that_is_read_only_from_now_on_ends_the_run(
    course: Course, out: Path, disk: Path, moment: tuple[str, int]
):
    assert mounted(disk, "64m", "remount")
    at, nth = moment
    command = ["mount", "-o", "remount,ro", str(disk)]

    first = course.start(out, faults=[{"at": at, "nth": nth, "do": "run", "command": command}]).end()
    assert mounted(disk, "64m", "remount", "rw")
    trial = course.gone_on(out, first)

    assert first.status == 1, first.said
    assert os.strerror(errno.EROFS) in first.said
    assert trial.continued() == []


def test_a_folder_that_cannot_be_made_is_named(course: Course, out: Path):
    """The parent is a file: root is refused that as anybody is."""
    out.write_text("a file")

    ended = course.start(out / "run").end()

    assert ended.status in (1, 2)
    assert str(out) in ended.said and "Traceback" not in ended.said


@full
def test_a_place_where_nobody_may_write_is_named(course: Course, out: Path):
    place = Path("/sys/captioncrafter")
    if not place.parent.is_dir():
        pytest.skip("needs /sys")

    ended = course.start(place, environment={"CAPTIONCRAFTER_CACHE": str(out)}).end()

    assert ended.status in (1, 2)
    assert str(place) in ended.said and "Traceback" not in ended.said


@full
def test_signals_are_heard_while_the_disk_is_full(course: Course, out: Path):
    limit = {"at": "save", "nth": 5, "do": "limit_file_size", "size": 20_000}

    trial = course.trial(out, faults=[send(15, at="batch", nth=12), limit])

    assert trial.first.status == 1, trial.first.said
    assert trial.continued() == []
