"""One training at a time in a run folder, whatever ends it."""

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from captioncrafter.stages import run_lock
from captioncrafter.stages.run_lock import InUseError, held
from captioncrafter.stages.train import train
from tiny import tiny_recipe
from trainees import ALONE


def test_a_second_one_is_refused_with_the_process_of_the_first(tmp_path: Path):
    with (
        held(tmp_path, ALONE),
        pytest.raises(InUseError, match=rf"{tmp_path}: another .* \(process {os.getpid()}\)"),
        held(tmp_path, ALONE),
    ):
        pass


def test_training_holds_the_lock(tiny_checkpoint: Path, tmp_path: Path):
    with held(tmp_path / "run", ALONE), pytest.raises(InUseError, match="another training is at work there"):
        train(tiny_recipe(tiny_checkpoint, tmp_path / "data"), tmp_path / "run", resume=True)


def test_a_refusal_leaves_the_lock_with_the_first(tmp_path: Path):
    with held(tmp_path, ALONE):
        for _ in range(2):
            with pytest.raises(InUseError), held(tmp_path, ALONE):
                pass


def test_afterwards_it_can_be_taken_again(tmp_path: Path):
    for _ in range(2):
        with held(tmp_path, ALONE):
            pass


def test_a_process_that_is_killed_lets_go_of_it(tmp_path: Path):
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        with held(tmp_path, ALONE):
            os.write(here, b"held")
            signal.pause()
    os.read(there, 4)

    try:
        with pytest.raises(InUseError, match=f"process {child}"), held(tmp_path, ALONE):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    with held(tmp_path, ALONE):
        assert (tmp_path / run_lock.LOCK).read_text().split()[0] == str(os.getpid())


def test_another_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with held(tmp_path, ALONE):
        name = os.uname().nodename
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")

        with pytest.raises(InUseError, match=rf"process {os.getpid()} on {name}\)"), held(tmp_path, ALONE):
            pass


def test_of_a_folder_made_for_nothing_nothing_is_left(tmp_path: Path):
    with held(tmp_path / "runs" / "first", ALONE):
        assert (tmp_path / "runs" / "first").is_dir()

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_or_is_used_stays(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with held(tmp_path / "empty", ALONE), held(tmp_path / "used", ALONE):
        (tmp_path / "used" / "file").touch()

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file", "used"]


def test_a_file_removed_before_it_was_locked_is_not_taken_for_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flock, calls = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / run_lock.LOCK).unlink()
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", late)

    with held(tmp_path, ALONE), pytest.raises(InUseError), held(tmp_path, ALONE):
        pass
    assert len(calls) == 3


def refuse(number: int):
    def refused(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


def test_a_system_that_locks_only_what_is_open_for_writing_has_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    flock = fcntl.flock

    def as_nfs(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", as_nfs)

    with held(tmp_path, ALONE), pytest.raises(InUseError), held(tmp_path, ALONE):
        pass
    assert capsys.readouterr().err == ""


def test_where_the_system_has_no_locks_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("fcntl.flock", refuse(errno.ENOLCK))

    with held(tmp_path, ALONE):
        pass

    assert "nothing keeps a second training out of the folder" in capsys.readouterr().err


def test_a_folder_that_can_only_be_read_is_no_failure_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr("os.open", refuse(errno.EROFS))
        with held(tmp_path, ALONE):
            pass


def test_a_full_disk_is_an_error_and_leaves_the_lock_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_text", lambda *given, **named: refuse(errno.ENOSPC)())
        with pytest.raises(OSError, match="No space left"), held(tmp_path, ALONE):
            pass

    with held(tmp_path, ALONE):
        pass
