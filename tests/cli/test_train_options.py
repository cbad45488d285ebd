"""The options of `train` that are not the recipe's."""

import importlib
from pathlib import Path

import pytest

from captioncrafter.cli import training
from captioncrafter.cli.commands import Train
from captioncrafter.cli.training import duration_s
from captioncrafter.errors import InputError, RecipeError
from captioncrafter.training.loop import FitResult
from tiny import tiny_recipe, write_tiny_dataset


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("55m", 3300), ("2h", 7200), ("1.5h", 5400)])
def test_a_length_of_time_has_a_unit(text: str, seconds: float):
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "55", "m", "-5m", "0s", "nan s", "infh", "5 days"])
def test_anything_else_is_no_length_of_time(text: str):
    with pytest.raises(InputError, match="is no length of time: write 90s, 55m or 2h"):
        duration_s(text)


def test_one_of_several_processes_tells_how_it_ended(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    command = Train(
        "tiny", out=tmp_path / "run", options=tiny_recipe(tiny_checkpoint, write_tiny_dataset(tmp_path / "d"))
    )
    assert training.train(command) == 0
    assert "Best validation CIDEr" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")

    assert training.train(command) == 0

    assert capsys.readouterr().out == ""


def test_steps_that_were_set_aside_are_told_and_end_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ended = FitResult(best_step=4, best_cider=0.5, steps=9, stopped_early=False, skipped=2)
    monkeypatch.setattr("captioncrafter.stages.train.train", lambda *_, **__: ended)

    assert training.train(Train("tiny", out=tmp_path)) == 3
    assert "at step 4 of 9; 2 steps were not finite and set aside." in capsys.readouterr().out


def parsed(*words: str) -> Train:
    return importlib.import_module("captioncrafter.cli.main")._parse(["train", *words])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--lora.rank 0", r"^command line: lora\.rank = 0: input should be greater than or equal to 1\.$"),
        ("--training.images-per-batch 3", r"^command line: \[training\]: images_per_step \(4\) must be a multiple of"),
        ("--lora.rank 3 --lora.init orthogonal", "init orthogonal needs an even rank, not 3"),
        ("--lora.init pissa --model.precision int8", 'lora.init "pissa" needs unquantised weights'),
        ("--lora.rank 0 --training.epochs -1", r"lora\.rank = 0: .*\ncommand line: training\.epochs = -1"),
    ],
)
def test_options_that_make_no_recipe_are_named_in_the_words_of_a_recipe(words: str, told: str):
    with pytest.raises(RecipeError, match=told):
        parsed("miniature", *words.split())


@pytest.mark.parametrize(
    ("words", "section", "left"),
    [
        ("miniature --data.path data/mine", "data", {"path": "data/mine", "scenes": None}),
        ("miniature --lora.pattern .*q", "lora", {"pattern": ".*q", "targets": None, "parts": None}),
    ],
)
def test_an_option_takes_the_place_of_those_of_the_recipe_that_it_excludes(
    words: str, section: str, left: dict[str, object]
):
    options = getattr(parsed(*words.split()).options, section).model_dump()

    assert {name: options[name] for name in left} == left


def test_options_that_exclude_each_other_are_refused_where_both_are_given():
    with pytest.raises(RecipeError, match="path and scenes exclude each other"):
        parsed("miniature", "--data.path", "data/mine", "--data.scenes.train", "9")
