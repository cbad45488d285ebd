"""A run begins once everything was checked, and goes on only with what it began with."""

from pathlib import Path

import pytest

from captioncrafter import recipe, runs
from captioncrafter.errors import CaptionCrafterError, DataError, InputError
from captioncrafter.stages.train import train
from tiny import tiny_recipe, write_tiny_checkpoint, write_tiny_dataset


@pytest.fixture
def options(tiny_checkpoint: Path, tmp_path: Path) -> recipe.Recipe:
    return tiny_recipe(tiny_checkpoint, tmp_path / "data")


def stop_at_the_first_step(options: recipe.Recipe, out: Path) -> None:
    """Begins a run and leaves it unfinished: its learning rate makes the first step fail."""
    broken = options.model_copy(update={"training": options.training.model_copy(update={"learning_rate": 1e30})})
    with pytest.raises(CaptionCrafterError, match="the loss is"):
        train(broken, out)
    written = runs.read_json(out / runs.RECIPE)
    written["training"]["learning_rate"] = options.training.learning_rate
    runs.write_json(out / runs.RECIPE, written)


def test_a_command_that_failed_before_the_first_step_can_be_given_again(options: recipe.Recipe, tmp_path: Path):
    with pytest.raises(DataError, match="no such dataset folder"):
        train(options, tmp_path / "run")
    write_tiny_dataset(tmp_path / "data")

    result = train(options, tmp_path / "run")

    assert result.steps > 0


def test_other_data_in_the_same_place_is_refused_on_resume(options: recipe.Recipe, tmp_path: Path):
    write_tiny_dataset(tmp_path / "data")
    stop_at_the_first_step(options, tmp_path / "run")
    write_tiny_dataset(tmp_path / "data", train=9)

    with pytest.raises(InputError, match=r"has changed since:\n  data\.train\.images: 6 in the run, 9 now"):
        train(options, tmp_path / "run", resume=True)


def test_another_checkpoint_in_the_same_place_is_refused_on_resume(tmp_path: Path):
    base = write_tiny_checkpoint(tmp_path / "base")
    options = tiny_recipe(base, write_tiny_dataset(tmp_path / "data"))
    stop_at_the_first_step(options, tmp_path / "run")
    write_tiny_checkpoint(base, seed=1)

    with pytest.raises(InputError, match=r"checkpoint\.weights"):
        train(options, tmp_path / "run", resume=True)


def test_the_run_can_be_used_from_another_folder(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_tiny_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    train(tiny_recipe(tiny_checkpoint, Path("data")), tmp_path / "run")

    assert runs.read_json(tmp_path / "run" / runs.RECIPE)["data"]["path"] == str(tmp_path / "data")


def test_a_run_that_stopped_at_a_step_that_is_not_finite_may_go_on_past_it(options: recipe.Recipe, tmp_path: Path):
    write_tiny_dataset(tmp_path / "data")
    stop_at_the_first_step(options, tmp_path / "run")
    skipping = options.training.model_copy(update={"on_nonfinite": "skip"})

    result = train(options.model_copy(update={"training": skipping}), tmp_path / "run", resume=True)

    assert result.steps > 0


def test_a_run_cannot_branch_off_itself(options: recipe.Recipe, tmp_path: Path):
    write_tiny_dataset(tmp_path / "data")
    train(options, tmp_path / "run")

    with pytest.raises(InputError, match="cannot branch off itself"):
        train(options, tmp_path / "run", branch=tmp_path / "run")


def test_a_branch_starts_from_the_best_adapter_of_the_other_run(options: recipe.Recipe, tmp_path: Path):
    write_tiny_dataset(tmp_path / "data")
    train(options, tmp_path / "run")
    other = options.model_copy(update={"seed": 5})

    train(other, tmp_path / "branch", branch=tmp_path / "run")

    first = next(row for row in runs.Run(tmp_path / "branch").log() if row["kind"] == "validation")
    best = max(row["CIDEr"] for row in runs.Run(tmp_path / "run").log() if row["kind"] == "validation" and row["step"])
    assert first["CIDEr"] == best
    assert runs.Run(tmp_path / "branch").manifest()["branched_from"] == str(tmp_path / "run")


def test_an_adapter_of_another_rank_cannot_be_branched_off(options: recipe.Recipe, tmp_path: Path):
    write_tiny_dataset(tmp_path / "data")
    train(options, tmp_path / "run")
    wider = options.model_copy(update={"lora": options.lora.model_copy(update={"rank": 4})})

    with pytest.raises(DataError, match="made with another adapter"):
        train(wider, tmp_path / "branch", branch=tmp_path / "run")


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_computed(
    options: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(InputError, match=r"captioncrafter\[track\]"):
        train(options.model_copy(update={"tracking": recipe.Tracking(tracker="wandb")}), tmp_path / "run")


def test_a_file_in_the_place_of_the_run_is_refused(options: recipe.Recipe, tmp_path: Path):
    (tmp_path / "run").write_text("not a folder")

    with pytest.raises(InputError, match="is a file"):
        train(options, tmp_path / "run")
