"""Files and folders take the place of others whole, or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captioncrafter import storage
from folders import folder_holding, names_in


def stop_at_rename(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises `error` in place of the rename of that number, counted from 1; the others take place."""
    rename, asked = Path.replace, []

    def rename_or_stop(path: Path, target: Path) -> Path:
        asked.append(path)
        if len(asked) == number:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", rename_or_stop)


def test_a_file_takes_the_old_ones_place(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")

    with storage.replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"

    assert (tmp_path / "a.txt").read_text() == "new"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_writer_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")

    with pytest.raises(ZeroDivisionError), storage.replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError

    assert (tmp_path / "a.txt").read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_writer_that_writes_nothing_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")

    with pytest.raises(FileNotFoundError), storage.replacing(tmp_path / "a.txt"):
        pass

    assert (tmp_path / "a.txt").read_text() == "old"


def test_rows_that_cannot_be_made_leave_the_old_file(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    storage.write_jsonl(file, [{"step": 1}])

    def rows() -> Iterator[dict[str, Any]]:
        yield {"step": 2}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        storage.write_jsonl(file, rows())

    assert storage.read_jsonl(file) == [{"step": 1}]


def test_missing_folders_are_made(tmp_path: Path):
    storage.write_text(tmp_path / "a" / "b" / "c.txt", "text")

    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"


def test_a_file_is_synced_before_it_takes_its_place_and_the_folder_after(tmp_path: Path, synced: list[Path]):
    storage.write_text(tmp_path / "a.txt", "text")

    assert [path.name for path in synced] == [f".a.txt.{os.getpid()}.tmp", tmp_path.name]


def test_a_folder_takes_the_old_ones_place(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()

    with storage.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()
        assert names_in(tmp_path / "d") == ["old"]

    assert names_in(tmp_path / "d") == ["new"]
    assert names_in(tmp_path) == ["d"]


def test_a_writer_that_raises_leaves_the_old_folder_and_nothing_else(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()

    with pytest.raises(ZeroDivisionError), storage.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError

    assert names_in(tmp_path / "d") == ["old"]
    assert names_in(tmp_path) == ["d"]


def test_what_an_older_kill_left_in_the_temporary_folder_is_not_taken_over(tmp_path: Path):
    (tmp_path / f".d.{os.getpid()}.tmp").mkdir()
    (tmp_path / f".d.{os.getpid()}.tmp" / "half").touch()

    with storage.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()

    assert names_in(tmp_path / "d") == ["new"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "d").symlink_to(tmp_path / "disk")

    with storage.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()

    assert (tmp_path / "d").is_symlink()
    assert names_in(tmp_path / "disk") == ["new"]


def test_a_folder_and_all_in_it_is_synced_before_it_takes_its_place(tmp_path: Path, synced: list[Path]):
    with storage.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("text")

    assert synced[-1] == tmp_path
    assert {path.relative_to(temporary).as_posix() for path in synced[:-1]} == {".", "inner", "inner/file"}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk gone")])
def test_a_stop_at_either_rename_leaves_the_old_folder_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
):
    folder_holding(tmp_path / "d", "old")
    stop_at_rename(number, error, monkeypatch)

    with pytest.raises(type(error)), storage.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()

    assert names_in(tmp_path / "d") == ["old"]
    assert names_in(tmp_path) == ["d"]


def test_a_stop_once_the_new_folder_is_in_place_leaves_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder_holding(tmp_path / "d", "old")
    stop_at_rename(3, KeyboardInterrupt(), monkeypatch)

    with pytest.raises(KeyboardInterrupt), storage.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()

    assert names_in(tmp_path / "d") == ["new"]
