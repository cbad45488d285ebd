"""`captioncrafter doctor` as a user meets it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from captioncrafter.stages import doctor
from command_line import status_of
from tiny import write_tiny_dataset


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint whose processor writes too few image positions."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    file = folder / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_query_tokens": 2}))
    return folder


def test_nothing_wrong_ends_0(capsys: pytest.CaptureFixture[str]):
    assert status_of("doctor", "miniature") == 0

    assert "Well: nothing found." in capsys.readouterr().out


def test_an_error_ends_1_and_shows_what_where_and_the_mend(base: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("doctor", base) == 1

    shown = " ".join(capsys.readouterr().out.split())
    assert "processor_config.json: num_query_tokens 2, and the model has 3 queries" in shown
    assert "→ Set it to 3." in shown
    assert "1 error. --fix mends 1 of them." in shown


def test_a_warning_alone_ends_3(base: Path):
    file = base / "processor_config.json"
    values = json.loads(file.read_text()) | {"num_query_tokens": 3, "processor_class": "BlipProcessor"}
    file.write_text(json.dumps(values))

    assert status_of("doctor", base) == 3


def test_fix_ends_0_where_it_mended_all_and_says_what_was_done(base: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("doctor", base, "--fix") == 0

    shown = " ".join(capsys.readouterr().out.split())
    assert "done: processor_config.json: num_query_tokens = 3" in shown
    assert "(the old one is processor_config.json.before-doctor)" in shown
    assert "Well: 1 mended." in shown


def test_json_is_one_object_on_stdout(base: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("doctor", base, "--json") == 1

    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["errors"], found["warnings"], found["notes"]) == ("checkpoint", 1, 0, 0)
    assert found["facts"]["image positions"] == 3
    (finding,) = found["findings"]
    assert (finding["severity"], finding["ailment"], finding["fixable"]) == ("error", "positions", True)
    assert finding["where"] == str(base / "processor_config.json")


def test_details_lists_every_layer(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    mine = tmp_path / "mine.toml"
    data = write_tiny_dataset(tmp_path / "data")
    mine.write_text(f'[model]\nbase = "{tiny_checkpoint}"\n[data]\npath = "{data}"\n')

    assert status_of("doctor", mine, "--details") == 0

    assert "language_model.decoder.block.1.layer.1.EncDecAttention.v" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["no-such", "./nowhere", "no/such/folder"])
def test_a_name_of_nothing_ends_2_and_tells_what_is_looked_at(name: str, capsys: pytest.CaptureFixture[str]):
    assert status_of("doctor", name) == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert "The doctor looks at a hub name" in shown.err


def test_a_folder_of_nothing_known_ends_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "letter.txt").write_text("dear sir")

    assert status_of("doctor", tmp_path) == 2

    assert "The doctor looks at" in capsys.readouterr().err


def test_the_signs_of_a_hostile_name_do_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps({"image_id": "\x1b[2Jone", "captions": ["a dog", " "]}) + "\n")

    assert status_of("doctor", file) == 1

    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[2Jone" in shown


def test_every_ailment_stands_in_the_guide():
    stages = Path(doctor.__file__).parent
    code = "".join(file.read_text() for file in [stages / "doctor.py", *(stages / "ailments").glob("*.py")])
    told = set(re.findall(r'\b(?:error|warning|note|attempt|tell)\(\s*f?"([a-z0-9-]+)"', code))
    listed = set(re.findall(r'^ {8}"([a-z-]+)": [(\[l]', code, re.M))  # tables of ailments
    guide = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")

    assert len(told) > 90
    assert len(listed) == 9
    assert told | listed <= set(re.findall(r"`([a-z0-9-]+)`", guide))
