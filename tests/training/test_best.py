"""The weights of the best validation lie twice: damage to either copy loses nothing and costs no step."""

import shutil
from pathlib import Path

import pytest

from captioncrafter.training import checkpoint
from little import Little
from tiny import flip_byte

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    """A checkpoint after the best, which is step 2; the weights of step 1 were the best before it."""
    little = Little()
    for step, best in ((1, 1), (2, 2), (3, 2)):
        little.train(1)
        path = little.save(tmp_path, step, keep=1, best_step=best)
    return path


@pytest.fixture
def best(newest: Path) -> Path:
    return newest.with_name("step-000002")


@pytest.fixture
def copy(newest: Path) -> Path:
    return newest.with_name("best")


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_best_is_found_in_its_checkpoint(newest: Path, best: Path):
    assert checkpoint.best_of(newest) == checkpoint.best_good(newest.parent) == best


@pytest.mark.parametrize("file", FILES)
def test_damage_to_the_best_checkpoint_costs_no_step(newest: Path, best: Path, file: str):
    flip_byte(best / file, 100)

    assert checkpoint.newest_good(newest.parent, with_best=True) == newest


def test_a_best_checkpoint_that_is_gone_is_found_in_its_copy(newest: Path, best: Path, copy: Path):
    shutil.rmtree(best)

    assert checkpoint.newest_good(newest.parent, with_best=True) == newest
    assert checkpoint.best_of(newest) == checkpoint.best_good(newest.parent) == copy


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json"])
def test_damaged_weights_are_written_again_from_the_copy_and_that_is_said(
    newest: Path, best: Path, copy: Path, file: str, capsys: pytest.CaptureFixture[str]
):
    before = content(best)
    flip_byte(best / file, 100)

    assert checkpoint.renewed_best(newest) == copy

    assert content(best) == before
    assert f"{file} is not as it was written; the weights of this best validation are whole" in capsys.readouterr().err


def test_a_damaged_copy_is_written_again_without_a_word(
    newest: Path, best: Path, copy: Path, capsys: pytest.CaptureFixture[str]
):
    before = content(copy)
    flip_byte(copy / "weights.safetensors", 100)

    assert checkpoint.renewed_best(newest) == best

    assert content(copy) == before
    assert capsys.readouterr().err == ""


def test_a_damaged_optimizer_of_the_best_is_said_and_left(newest: Path, best: Path, capsys: pytest.CaptureFixture[str]):
    flip_byte(best / "optimizer.safetensors", 100)
    before = content(best)

    assert checkpoint.renewed_best(newest) == best

    assert content(best) == before
    assert "optimizer.safetensors is not as it was written" in capsys.readouterr().err


def test_where_both_are_damaged_the_newest_is_passed_over_and_that_is_said(
    newest: Path, best: Path, copy: Path, capsys: pytest.CaptureFixture[str]
):
    for place in (best, copy):
        flip_byte(place / "weights.safetensors", 100)

    assert checkpoint.newest_good(newest.parent, with_best=True) is None
    assert f"{best} holds its best weights and is not whole, nor is the copy in best" in capsys.readouterr().err
    assert checkpoint.best_good(newest.parent) == newest


def test_a_copy_of_another_best_is_not_taken_for_this_one(newest: Path, best: Path, copy: Path):
    little = Little()
    little.save(newest.parent, 4, keep=3, best_step=4)
    shutil.rmtree(best, ignore_errors=True)

    assert checkpoint.best_of(newest) is None


def test_before_the_first_validation_there_is_no_best(tmp_path: Path):
    path = Little().save(tmp_path, 1)

    assert checkpoint.best_of(path) is checkpoint.renewed_best(path) is None
    assert checkpoint.best_good(tmp_path) == path
