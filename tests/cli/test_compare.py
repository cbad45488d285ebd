"""`captioncrafter compare` as a user meets it: a table for people, fractions for programs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from captioncrafter.cli import tables
from command_line import status_of

CAPTIONS = [f"a {animal} in the {place}" for animal in ("dog", "cat", "man") for place in ("park", "street", "lake")]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """References; predictions of which the one is right on every image, the other on the first."""
    monkeypatch.chdir(tmp_path)
    for name, rows in {
        "refs.jsonl": [{"captions": [text, f"{text} outside"]} for text in CAPTIONS],
        "good.jsonl": [{"caption": text} for text in CAPTIONS],
        "bad.jsonl": [{"caption": text if n == 0 else "a bird"} for n, text in enumerate(CAPTIONS)],
    }.items():
        lines = (json.dumps({"image_id": n} | row) + "\n" for n, row in enumerate(rows))
        (tmp_path / name).write_text("".join(lines))
    return tmp_path


def test_people_see_values_differences_tests_and_what_they_come_to(files: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("compare", "bad.jsonl", "good.jsonl", "--references", "refs.jsonl", "--metrics", "ROUGE-L") == 0

    shown = capsys.readouterr().out
    assert "9 images; × 100, with 95 % intervals" in shown
    assert re.search(r"ROUGE-L +│ +[\d.]+ +\[[\d.]+, [\d.]+\] │ +100\.0  \[100\.0, 100\.0\]", shown)
    assert re.search(r"ROUGE-L +│ +\+[\d.]+ \[\+[\d.]+, \+[\d.]+\] │ 0\.00\d\d │ +0\.00\d\d │ +8/1/0", shown)
    assert "good against bad: higher in ROUGE-L (corrected p < 0.05)." in shown


def test_the_table_fits_a_narrow_terminal(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")

    status_of("compare", "bad.jsonl", "good.jsonl", "--references", "refs.jsonl")

    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(rows) == 14
    assert all("…" not in row and "│ " in row for row in rows)


def test_where_nothing_differs_that_is_said(files: Path, capsys: pytest.CaptureFixture[str]):
    (files / "again.jsonl").write_bytes((files / "good.jsonl").read_bytes())

    status_of("compare", "good.jsonl", "again.jsonl", "--references", "refs.jsonl", "--metrics", "CIDEr")

    shown = capsys.readouterr().out
    assert "again against good: no difference shown." in shown
    assert "+0.00 [+0.00, +0.00]" in shown


def test_programs_get_fractions_and_the_file_the_same(files: Path, capsys: pytest.CaptureFixture[str]):
    words = ("compare", "bad.jsonl", "good.jsonl", "--references", "refs.jsonl", "--resamples", "200", "--seed", "3")

    assert status_of(*words, "--json", "--out", "found.json") == 0

    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((files / "found.json").read_text())
    assert told["systems"]["good"]["metrics"]["ROUGE-L"]["value"] == pytest.approx(1.0)
    assert (told["scorer"]["resamples"], told["scorer"]["seed"]) == (200, 3)


def found(*, value: float = 0.1, **parts: object) -> dict[str, Any]:
    """What the stage gives for two systems and one metric; `parts` are of the second."""
    measured = {"CIDEr": {"value": 0.5, "low": 0.4, "high": 0.6}}
    difference = {"value": value, "low": -0.1, "high": 0.3, "p": 0.2, "p_holm": 0.2, "wins": 1, "ties": 0, "losses": 1}
    return {
        "images": 2,
        "baseline": "one",
        "systems": {"one": {"metrics": measured}, "two": {"metrics": measured} | parts},
        "differences": {"two": {"CIDEr": difference}},
        "correction": {"method": "Holm", "tests": 1},
        "scorer": {"resamples": 100},
    }


def test_deviation_over_seeds_has_a_table_of_its_own(capsys: pytest.CaptureFixture[str]):
    seeds = {"CIDEr": {"mean": 0.512, "sd": 0.0234, "runs": {"1": 0.5, "2": 0.52}}}

    tables.print_comparison(found(training_seeds=seeds))

    shown = capsys.readouterr().out
    assert "two (2 seeds)" in shown
    assert "51.2 ± 2.3" in shown
    assert "± is chance in training" in shown


def test_a_difference_too_small_to_show_has_no_minus(capsys: pytest.CaptureFixture[str]):
    tables.print_comparison(found(value=-1e-6))

    assert "+0.00 [-10.00, +30.00]" in capsys.readouterr().out


def test_a_comparison_on_a_part_says_so_and_ends_3(files: Path, capsys: pytest.CaptureFixture[str]):
    part = (files / "bad.jsonl").read_text().splitlines()[2:]
    (files / "bad.jsonl").write_text("\n".join(part))

    assert status_of("compare", "bad.jsonl", "good.jsonl", "--references", "refs.jsonl", "--allow-partial") == 3

    assert "7 images (only a part of them: see --allow-partial)" in capsys.readouterr().out


def test_one_test_is_no_plural(capsys: pytest.CaptureFixture[str]):
    tables.print_comparison(found())

    assert "Holm's correction over 1 test." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("good.jsonl",), "compares with nothing"),
        (("good.jsonl", "bad.jsonl"), "give them with --references"),
        (("good.jsonl", "missing.jsonl", "--references", "refs.jsonl"), "missing.jsonl: no such file"),
        (("good.jsonl", "bad.jsonl", "--references", "refs.jsonl", "--resamples", "5"), "resamples = 5"),
        (("good.jsonl", "bad.jsonl", "--references", "refs.jsonl", "--split", "test"), "--split"),
        (("good.jsonl", "bad.jsonl", "--references", "bad.jsonl", "--metrics", "SPIC"), 'no metric "SPIC"'),
    ],
)
def test_wrong_words_end_2_with_the_reason(
    words: tuple[str, ...], said: str, files: Path, capsys: pytest.CaptureFixture[str]
):
    assert status_of("compare", *words) == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
