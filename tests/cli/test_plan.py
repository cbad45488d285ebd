"""`captioncrafter plan` as a user meets it."""

import json
from pathlib import Path

import pytest

from captioncrafter import recipe
from captioncrafter.cli import tables
from captioncrafter.stages.plan import plan
from command_line import status_of
from tiny import write_tiny_dataset


@pytest.fixture
def mine(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    file = tmp_path / "mine.toml"
    data = write_tiny_dataset(tmp_path / "data")
    file.write_text(f'[model]\nbase = "{tiny_checkpoint}"\ndevice = "cpu"\n[data]\npath = "{data}"\n')
    return file


def test_a_plan_tells_parts_phases_disk_time_and_whether_it_fits(mine: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("plan", mine) == 0

    shown = capsys.readouterr().out
    for word in ("vision_model", "language_model.decoder", "features", "training", "on disk", "Time", "Fits"):
        assert word in shown


def test_a_plan_that_does_not_fit_ends_0_and_says_so(mine: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("plan", mine, "--gpu-memory", "1MB") == 0

    assert "Does not fit, and no change of options makes it" in capsys.readouterr().out


def test_no_commit_is_told_where_none_is_known(mine: Path, capsys: pytest.CaptureFixture[str]):
    told = plan(recipe.load(str(mine))).to_json() | {"pinned": False, "revision": None}

    tables.print_plan(told, recipe="mine.toml")

    assert "Revision: none is pinned; a run keeps the commit that it began with" in capsys.readouterr().out


def test_a_device_too_small_for_the_whole_model_is_told_how_to_caption(mine: Path, capsys: pytest.CaptureFixture[str]):
    told = plan(recipe.load(str(mine))).to_json()
    told |= {"captioning_bytes": told["limit_bytes"] + 1, "captioning_precision": None}

    tables.print_plan(told, recipe="mine.toml")

    assert "Give evaluate and caption --device cpu, which is slow." in capsys.readouterr().out


def test_json_is_one_object_on_stdout(mine: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("plan", mine, "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["flags"] == []
    assert {"parts", "phases", "peak_bytes", "cache_bytes", "times", "lengths"} <= found.keys()


def test_options_override_the_recipe(mine: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("plan", mine, "--lora.preset", "fast", "--json") == 0

    assert json.loads(capsys.readouterr().out)["cut"] == "encoder"


def test_a_wrong_size_ends_2(mine: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("plan", mine, "--gpu-memory", "big") == 2

    assert "write 8GB" in capsys.readouterr().err
