"""A run begins once everything was checked, and goes on only with what it began with."""

from pathlib import Path
from typing import Any

import pytest

from captioncrafter import recipe, runs, storage
from captioncrafter.errors import CaptionCrafterError, DataError, InputError
from captioncrafter.stages import run_start
from captioncrafter.stages.train import train
from captioncrafter.training import guard
from tiny import tiny_recipe, write_tiny_checkpoint, write_tiny_dataset


@pytest.fixture
def options(tiny_checkpoint: Path, tmp_path: Path) -> recipe.Recipe:
    return tiny_recipe(tiny_checkpoint, tmp_path / "data")


def stop_after_a_ruinous_step(options: recipe.Recipe, out: Path) -> None:
    """Begins a run and leaves it unfinished: its learning rate ruins the weights, and a later step is not finite."""
    broken = options.model_copy(update={"training": options.training.model_copy(update={"learning_rate": 1e30})})
    with pytest.raises(CaptionCrafterError, match="the loss is"):
        train(broken, out)
    written = storage.read_json(out / runs.RECIPE)
    written["training"]["learning_rate"] = options.training.learning_rate
    storage.write_json(out / runs.RECIPE, written)


def test_a_command_that_failed_before_the_first_step_can_be_given_again(options: recipe.Recipe, tmp_path: Path):
    with pytest.raises(DataError, match="no such dataset folder"):
        train(options, tmp_path / "run")
    write_tiny_dataset(tmp_path / "data")

    result = train(options, tmp_path / "run")

    assert result.steps > 0


def test_other_data_in_the_same_place_is_refused_on_resume(options: recipe.Recipe, tmp_path: Path):
    write_tiny_dataset(tmp_path / "data")
    stop_after_a_ruinous_step(options, tmp_path / "run")
    write_tiny_dataset(tmp_path / "data", train=9)

    with pytest.raises(InputError, match=r"has changed since:\n  data\.train\.images: 6 in the run, 9 now"):
        train(options, tmp_path / "run", resume=True)


def test_another_checkpoint_in_the_same_place_is_refused_on_resume(tmp_path: Path):
    base = write_tiny_checkpoint(tmp_path / "base")
    options = tiny_recipe(base, write_tiny_dataset(tmp_path / "data"))
    stop_after_a_ruinous_step(options, tmp_path / "run")
    write_tiny_checkpoint(base, seed=1)

    with pytest.raises(InputError, match=r"checkpoint\.weights"):
        train(options, tmp_path / "run", resume=True)


def test_the_run_can_be_used_from_another_folder(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_tiny_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    train(tiny_recipe(tiny_checkpoint, Path("data")), tmp_path / "run")

    assert storage.read_json(tmp_path / "run" / runs.RECIPE)["data"]["path"] == str(tmp_path / "data")


def test_a_run_that_stopped_at_a_step_that_is_not_finite_may_go_on_past_it(options: recipe.Recipe, tmp_path: Path):
    write_tiny_dataset(tmp_path / "data")
    stop_after_a_ruinous_step(options, tmp_path / "run")
    skipping = options.training.model_copy(update={"on_nonfinite": "skip"})

    result = train(options.model_copy(update={"training": skipping}), tmp_path / "run", resume=True)

    assert result.steps > 0
    assert result.skipped > 0


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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rank": 4}, r"lora\.rank: 16 in the run, 4 now"),
        ({"alpha": 8.0}, r"lora\.alpha: 32\.0 in the run, 8\.0 now"),
        ({"use_dora": True}, r"lora\.use_dora: False in the run, True now"),
        ({"preset": "fast"}, r"layers: \d+ in the run \(the parts of preset efficient\), \d+ now \(.* fast\)"),
    ],
)
def test_another_kind_of_adapter_cannot_be_branched_off(
    options: recipe.Recipe, tmp_path: Path, change: dict[str, Any], told: str
):
    write_tiny_dataset(tmp_path / "data")
    storage.write_json(tmp_path / "run" / runs.RECIPE, options.model_dump(mode="json"))
    other = options.model_copy(update={"lora": options.lora.model_copy(update=change)})

    with pytest.raises(InputError, match=rf"{told}\nTake over its \[lora\] to start from its weights"):
        train(other, tmp_path / "branch", branch=tmp_path / "run")


@pytest.mark.parametrize(("change", "offered"), [({"seed": 3}, True), ({"lora": recipe.Lora(rank=4)}, False)])
def test_a_branch_is_offered_only_where_the_adapter_would_fit(
    options: recipe.Recipe, tmp_path: Path, change: dict[str, Any], offered: bool
):
    write_tiny_dataset(tmp_path / "data")
    begun = run_start.located(options).model_dump(mode="json")
    storage.write_json(tmp_path / "run" / runs.RECIPE, begun)

    with pytest.raises(InputError, match="holds a run of another recipe") as refused:
        train(options.model_copy(update=change), tmp_path / "run", resume=True)

    assert ("--branch" in str(refused.value)) == offered


def test_a_time_budget_that_is_over_while_features_are_computed_keeps_them(
    options: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_tiny_dataset(tmp_path / "data")
    one_by_one = options.model_copy(update={"features": recipe.Features(images_per_batch=1)})
    over = iter([False, False, True])
    monkeypatch.setattr(guard.StopRequest, "code", property(lambda _: int(next(over, True))))

    with pytest.raises(guard.Stopped, match="stopped before the first step, because its time is used up") as stopped:
        train(one_by_one, tmp_path / "run", stop_after_s=60.0)
    monkeypatch.undo()
    monkeypatch.setenv("CAPTIONCRAFTER_CACHE", str(tmp_path / "cache"))
    train(one_by_one, tmp_path / "run")

    assert stopped.value.exit_code == 0
    assert "8 computed, 2 from" in capsys.readouterr().err


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
