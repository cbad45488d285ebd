"""A run folder tells what was asked, done and logged, and outlives a kill."""

from pathlib import Path

import pytest

from captioncrafter import storage
from captioncrafter.errors import DataError
from captioncrafter.runs import Run
from folders import folder_holding, names_in


@pytest.fixture
def run(tmp_path: Path) -> Run:
    storage.write_json(tmp_path / "run" / "recipe.json", {"seed": 4})
    return Run.open(tmp_path / "run")


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
    storage.write_text(run.path / "base" / "scores.json", "{}")

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
