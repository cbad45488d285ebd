"""The options of `train` that are not the recipe's."""

from pathlib import Path

import pytest

from captioncrafter.cli import verbs
from captioncrafter.cli.commands import Train
from captioncrafter.cli.verbs import duration_s
from captioncrafter.errors import InputError
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
    assert verbs.train(command) == 0
    assert "Best validation CIDEr" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")

    assert verbs.train(command) == 0

    assert capsys.readouterr().out == ""
