"""Files and folders on disk: whole, or not at all."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captioncrafter import runs
from captioncrafter.errors import DataError
from captioncrafter.runs import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    runs.write_json(tmp_path / "run" / "recipe.json", {"seed": 4})
    return Run.open(tmp_path / "run")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is synced to disk, in order; Linux tells which file a descriptor is."""
    found: list[Path] = []
    sync = os.fsync

    def note_and_sync(descriptor: int) -> None:
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note_and_sync)
    return found


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def folder_holding(path: Path, name: str) -> Path:
    path.mkdir(parents=True)
    (path / name).touch()
    return path


def stop_at_rename(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises `error` in place of the rename of that number, counted from 1; the others take place."""
    rename, asked = Path.replace, []

    def rename_or_stop(path: Path, target: Path) -> Path:
        asked.append(path)
        if len(asked) == number:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", rename_or_stop)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_takes_the_old_ones_place(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")

    with runs.replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"

    assert (tmp_path / "a.txt").read_text() == "new"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_writer_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")

    with pytest.raises(ZeroDivisionError), runs.replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError

    assert (tmp_path / "a.txt").read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_writer_that_writes_nothing_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")

    with pytest.raises(FileNotFoundError), runs.replacing(tmp_path / "a.txt"):
        pass

    assert (tmp_path / "a.txt").read_text() == "old"


def test_rows_that_cannot_be_made_leave_the_old_file(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    runs.write_jsonl(file, [{"step": 1}])

    def rows() -> Iterator[dict[str, Any]]:
        yield {"step": 2}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runs.write_jsonl(file, rows())

    assert runs.read_jsonl(file) == [{"step": 1}]


def test_missing_folders_are_made(tmp_path: Path):
    runs.write_text(tmp_path / "a" / "b" / "c.txt", "text")

    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"


def test_a_file_is_synced_before_it_takes_its_place_and_the_folder_after(tmp_path: Path, synced: list[Path]):
    runs.write_text(tmp_path / "a.txt", "text")

    assert [path.name for path in synced] == [f".a.txt.{os.getpid()}.tmp", tmp_path.name]


def test_a_folder_takes_the_old_ones_place(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()

    with runs.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()
        assert names_in(tmp_path / "d") == ["old"]

    assert names_in(tmp_path / "d") == ["new"]
    assert names_in(tmp_path) == ["d"]


def test_a_writer_that_raises_leaves_the_old_folder_and_nothing_else(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()

    with pytest.raises(ZeroDivisionError), runs.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError

    assert names_in(tmp_path / "d") == ["old"]
    assert names_in(tmp_path) == ["d"]


def test_what_an_older_kill_left_in_the_temporary_folder_is_not_taken_over(tmp_path: Path):
    (tmp_path / f".d.{os.getpid()}.tmp").mkdir()
    (tmp_path / f".d.{os.getpid()}.tmp" / "half").touch()

    with runs.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()

    assert names_in(tmp_path / "d") == ["new"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "d").symlink_to(tmp_path / "disk")

    with runs.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()

    assert (tmp_path / "d").is_symlink()
    assert names_in(tmp_path / "disk") == ["new"]


def test_a_folder_and_all_in_it_is_synced_before_it_takes_its_place(tmp_path: Path, synced: list[Path]):
    with runs.replacing_folder(tmp_path / "d") as temporary:
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

    with pytest.raises(type(error)), runs.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()

    assert names_in(tmp_path / "d") == ["old"]
    assert names_in(tmp_path) == ["d"]


def test_a_stop_once_the_new_folder_is_in_place_leaves_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder_holding(tmp_path / "d", "old")
    stop_at_rename(3, KeyboardInterrupt(), monkeypatch)

    with pytest.raises(KeyboardInterrupt), runs.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()

    assert names_in(tmp_path / "d") == ["new"]


def test_the_old_folder_comes_back_after_a_kill_between_the_renames(tmp_path: Path):
    folder_holding(tmp_path / "d", "old")
    program = f"""
import os, pathlib, signal
from captioncrafter import runs
rename = pathlib.Path.replace
def rename_then_die(path, target):
    rename(path, target)
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = rename_then_die
with runs.replacing_folder(pathlib.Path({str(tmp_path / "d")!r})) as temporary:
    (temporary / "new").touch()
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "d" not in names_in(tmp_path)

    runs.recover(tmp_path / "d")

    assert names_in(tmp_path) == ["d"]
    assert names_in(tmp_path / "d") == ["old"]


def test_a_writer_that_raises_leaves_the_folder_that_a_kill_had_put_aside(tmp_path: Path, ended: int):
    folder_holding(tmp_path / f".d.{ended}.old", "old")

    with pytest.raises(ZeroDivisionError), runs.replacing_folder(tmp_path / "d"):
        raise ZeroDivisionError

    assert names_in(tmp_path) == ["d"]
    assert names_in(tmp_path / "d") == ["old"]


def test_a_folder_put_aside_under_our_own_process_id_comes_back(tmp_path: Path):
    # In a container every start may get the same process id.
    folder_holding(tmp_path / f".d.{os.getpid()}.old", "old")

    runs.recover(tmp_path / "d")

    assert names_in(tmp_path / "d") == ["old"]


def test_a_folder_in_its_place_is_not_given_up_for_one_put_aside(tmp_path: Path, ended: int):
    folder_holding(tmp_path / "d", "new")
    folder_holding(tmp_path / f".d.{ended}.old", "old")

    runs.recover(tmp_path / "d")

    assert names_in(tmp_path) == ["d"]
    assert names_in(tmp_path / "d") == ["new"]


def test_the_folder_behind_a_link_comes_back(tmp_path: Path, ended: int):
    folder_holding(tmp_path / "disk" / f".target.{ended}.old", "old")
    (tmp_path / "d").symlink_to(tmp_path / "disk" / "target")

    runs.recover(tmp_path / "d")

    assert names_in(tmp_path / "d") == ["old"]


def test_what_ended_processes_left_of_a_folder_is_removed(tmp_path: Path, ended: int):
    folder_holding(tmp_path / f".d.{ended}.tmp", "half")

    with runs.replacing_folder(tmp_path / "d"):
        pass

    assert names_in(tmp_path) == ["d"]


@pytest.mark.parametrize("suffix", ["tmp", "old"])
def test_what_a_running_process_is_working_on_is_left_alone(tmp_path: Path, suffix: str):
    name = f".d.{os.getppid()}.{suffix}"
    folder_holding(tmp_path / name, "file")

    runs.recover(tmp_path / "d")

    assert names_in(tmp_path) == [name]


def test_a_folder_being_written_survives_a_recovery_by_its_own_process(tmp_path: Path):
    with runs.replacing_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()
        runs.recover(tmp_path / "d")

    assert names_in(tmp_path / "d") == ["new"]


@pytest.mark.parametrize("name", [".other.{}.tmp", ".d.e.{}.tmp", ".d.{}.tmp.txt", "d.{}.old", ".d.x{}.old"])
def test_what_only_looks_left_behind_stays(tmp_path: Path, ended: int, name: str):
    folder_holding(tmp_path / name.format(ended), "file")

    runs.recover(tmp_path / "d")

    assert names_in(tmp_path) == [name.format(ended)]


def test_opening_a_run_brings_back_the_adapter_that_a_kill_had_put_aside(run: Run, ended: int):
    folder_holding(run.path / f".adapter.{ended}.old", "weights")

    opened = Run.open(run.path)

    assert names_in(opened.adapter) == ["weights"]


def test_a_folder_without_a_recipe_is_no_run(tmp_path: Path):
    with pytest.raises(DataError) as refused:
        Run.open(tmp_path / "run")

    assert str(refused.value) == (
        f"{tmp_path / 'run'}: not a run folder (recipe.json is missing). "
        f"`captioncrafter train RECIPE --out {tmp_path / 'run'}` makes one."
    )


def test_a_run_gives_its_recipe(run: Run):
    assert run.recipe() == {"seed": 4}


def test_the_manifest_is_empty_at_first_and_grows_by_entries(run: Run):
    assert run.manifest() == {}

    run.add_to_manifest(device="cpu", steps=1)
    run.add_to_manifest(steps=2)

    assert run.manifest() == {"device": "cpu", "steps": 2}


def test_dropping_the_base_leaves_the_rest_and_may_be_done_twice(run: Run):
    runs.write_text(run.path / "base" / "scores.json", "{}")

    run.drop_base()
    run.drop_base()

    assert names_in(run.path) == ["recipe.json"]


def test_a_run_that_logged_nothing_has_no_rows(run: Run):
    assert run.log() == []


def test_logged_rows_come_back_in_order(run: Run):
    for step in range(3):
        run.append_log({"step": step})

    assert run.log() == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_a_row_is_on_disk_before_the_next_step(run: Run, synced: list[Path]):
    run.append_log({"step": 0})

    assert synced == [run.path / "log.jsonl"]


@pytest.mark.parametrize("cut", ['{"step": 2, "lo', "{", '{"step": 2}'[:-1]])
def test_a_last_row_that_a_kill_cut_short_is_left_out(run: Run, cut: str):
    run.append_log({"step": 1})
    with (run.path / "log.jsonl").open("a") as file:
        file.write(cut)

    assert run.log() == [{"step": 1}]


def test_a_resumed_run_logs_on_behind_a_cut_row(run: Run):
    run.append_log({"step": 1})
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')

    run.keep_log(lambda row: True)
    run.append_log({"step": 2})

    assert run.log() == [{"step": 1}, {"step": 2}]


def test_rows_that_a_resumed_run_repeats_are_taken_back(run: Run):
    for step in range(4):
        run.append_log({"step": step})

    run.keep_log(lambda row: row["step"] <= 1)

    assert run.log() == [{"step": 0}, {"step": 1}]


def test_any_text_in_a_row_survives_keeping(run: Run):
    rows = [{"caption": "ein Hund\u2028läuft\x85"}, {"step": 2}]
    for row in rows:
        run.append_log(row)

    run.keep_log(lambda row: True)

    assert run.log() == rows


def test_json_is_written_for_people(tmp_path: Path):
    runs.write_json(tmp_path / "a.json", {"caption": "ein Hund läuft 🐕"})

    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "caption": "ein Hund läuft 🐕"\n}\n'


def test_what_is_no_json_is_refused_with_its_line(tmp_path: Path):
    (tmp_path / "a.json").write_text('{\n"seed": }')

    with pytest.raises(DataError, match=r"a\.json: not valid JSON \(.*line 2 column 9"):
        runs.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [runs.read_json, runs.read_jsonl])
def test_a_missing_file_is_named(tmp_path: Path, read: Any):
    with pytest.raises(DataError, match=r"a\.json: no such file\."):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("read", [runs.read_json, runs.read_jsonl])
def test_what_is_not_utf8_is_refused_by_name(tmp_path: Path, read: Any):
    (tmp_path / "a.json").write_bytes(b'{"a": "caf\xe9"}')

    with pytest.raises(DataError, match=r"a\.json: not "):
        read(tmp_path / "a.json")


def test_json_lines_are_read_back_whatever_they_hold(tmp_path: Path):
    rows = [{"caption": "a\u2028b\x85c"}, {"caption": "two\nlines"}]
    runs.write_jsonl(tmp_path / "a.jsonl", rows)

    assert runs.read_jsonl(tmp_path / "a.jsonl") == rows


def test_blank_json_lines_are_passed_over_and_counted(tmp_path: Path):
    text = '{"a": 1}\r\n\n  \n{"a": 2}\n'

    assert list(runs.numbered_jsonl(tmp_path / "a.jsonl", text)) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"a": 1', "not valid JSON (Expecting ',' delimiter: line 1 column 8 (char 7))."),
        ("[1]", "expected a JSON object, found list."),
        ("null", "expected a JSON object, found NoneType."),
    ],
)
def test_a_json_line_that_is_no_object_is_refused_by_its_number(tmp_path: Path, line: str, fault: str):
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": 1}) + "\n\n" + line + "\n")

    with pytest.raises(DataError) as refused:
        runs.read_jsonl(tmp_path / "a.jsonl")

    assert str(refused.value) == f"{tmp_path / 'a.jsonl'}, line 3: {fault}"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAPTIONCRAFTER_CACHE", "~/features")

    assert runs.cache_folder() == Path.home() / "features"


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPTIONCRAFTER_CACHE")

    assert runs.cache_folder() == Path.home() / ".cache" / "captioncrafter"


def test_there_is_nothing_to_recover_where_no_folder_is(tmp_path: Path):
    runs.recover(tmp_path / "no" / "such" / "folder")

    assert list(tmp_path.iterdir()) == []
