"""What a kill left of a folder being replaced is put back, and only that."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from captioncrafter import storage
from folders import folder_holding, names_in


def test_the_old_folder_comes_back_after_a_kill_between_the_renames(tmp_path: Path):
    folder_holding(tmp_path / "d", "old")
    program = f"""
import os, pathlib, signal
from captioncrafter import storage
rename = pathlib.Path.replace
def rename_then_die(path, target):
    rename(path, target)
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = rename_then_die
with storage.replacing_folder(pathlib.Path({str(tmp_path / "d")!r})) as temporary:
    (temporary / "new").touch()
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "d" not in names_in(tmp_path)

    storage.recover(tmp_path / "d")

    assert names_in(tmp_path) == ["d"]
    assert names_in(tmp_path / "d") == ["old"]


def test_a_writer_that_raises_leaves_the_folder_that_a_kill_had_put_aside(tmp_path: Path, ended: int):
    folder_holding(tmp_path / f".d.{ended}.old", "old")

    with pytest.raises(ZeroDivisionError), storage.replacing_folder(tmp_path / "d"):
        raise ZeroDivisionError

    assert names_in(tmp_path) == ["d"]
    assert names_in(tmp_path / "d") == ["old"]


def test_a_folder_put_aside_under_our_own_process_id_comes_back(tmp_path: Path):
    # In a container every start may get the same process id.
    folder_holding(tmp_path / f".d.{os.getpid()}.old", "old")

    storage.recover(tmp_path / "d")

    assert names_in(tmp_path / "d") == ["old"]


def test_a_folder_in_its_place_is_not_given_up_for_one_put_aside(tmp_path: Path, ended: int):
    folder_holding(tmp_path / "d", "new")
    folder_holding(tmp_path / f".d.{ended}.old", "old")

    storage.recover(tmp_path / "d")

    assert names_in(tmp_path) == ["d"]
    assert names_in(tmp_path / "d") == ["new"]


def test_the_folder_behind_a_link_comes_back(tmp_path: Path, ended: int):
    folder_holding(tmp_path / "disk" / f".target.{ended}.old", "old")
    (tmp_path / "d").symlink_to(tmp_path / "disk" / "target")

    storage.recover(tmp_path / "d")

    assert names_in(tmp_path / "d") == ["old"]


def test_what_ended_processes_left_of_a_folder_is_removed(tmp_path: Path, ended: int):
    folder_holding(tmp_path / f".d.{ended}.tmp", "half")

    with storage.replacing_folder(tmp_path / "d"):
        pass

    assert names_in(tmp_path) == ["d"]


@pytest.mark.parametrize("suffix", ["tmp", "old"])
def test_what_a_running_process_is_working_on_is_left_alone(tmp_path: Path, suffix: str):
    name = f".d.{os.getppid()}.{suffix}"
    folder_holding(tmp_path / name, "file")

    storage.recover(tmp_path / "d")

    assert names_in(tmp_path) == [name]


def test_a_folder_being_written_survives_a_recovery_by_its_own_process(tmp_path: Path):
    with storage.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()
        storage.recover(tmp_path / "d")

    assert names_in(tmp_path / "d") == ["new"]


@pytest.mark.parametrize("name", [".other.{}.tmp", ".d.e.{}.tmp", ".d.{}.tmp.txt", "d.{}.old", ".d.x{}.old"])
def test_what_only_looks_left_behind_stays(tmp_path: Path, ended: int, name: str):
    folder_holding(tmp_path / name.format(ended), "file")

    storage.recover(tmp_path / "d")

    assert names_in(tmp_path) == [name.format(ended)]


def test_there_is_nothing_to_recover_where_no_folder_is(tmp_path: Path):
    storage.recover(tmp_path / "no" / "such" / "folder")

    assert list(tmp_path.iterdir()) == []
