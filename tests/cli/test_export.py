"""`captioncrafter export` as a user meets it."""

import json
from pathlib import Path

import pytest

from command_line import status_of
from patients import write_adapter


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return write_adapter(tiny_checkpoint, tmp_path / "adapter")


def test_the_command_that_is_shown_captions_with_the_export(
    adapter: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert status_of("export", adapter, "--to", tmp_path / "adapted") == 0
    assert f"caption PHOTOS… --adapter {tmp_path / 'adapted'}" in capsys.readouterr().out
    assert status_of("caption", photos, "--adapter", tmp_path / "adapted", "--device", "cpu") == 0
    beside = capsys.readouterr().out

    assert status_of("export", adapter, "--to", tmp_path / "merged", "--merge", "--dtype", "fp32") == 0
    assert f"caption PHOTOS… --base {tmp_path / 'merged'}" in capsys.readouterr().out
    assert status_of("caption", photos, "--base", tmp_path / "merged", "--device", "cpu") == 0

    assert capsys.readouterr().out == beside


def test_json_is_one_object_on_stdout(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("export", adapter, "--to", tmp_path / "out", "--merge", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["dtype"], told["folder"], told["url"]) == (
        "merged",
        "bfloat16",
        str(tmp_path / "out"),
        None,
    )
    assert told["files"]["model.safetensors"]["bytes"] > 100_000


def test_an_occupied_folder_ends_2(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("export", adapter, "--to", tmp_path / "out") == 0

    assert status_of("export", adapter, "--to", tmp_path / "out") == 2
    assert status_of("export", adapter, "--to", tmp_path / "out", "--overwrite") == 0

    assert "--overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "goes_with"), [(["--dtype", "fp32"], "--merge"), (["--public"], "--push")])
def test_an_option_without_effect_ends_2(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], goes_with: str
):
    assert status_of("export", adapter, "--to", tmp_path / "out", *option) == 2

    assert f"it goes with {goes_with}" in capsys.readouterr().err
