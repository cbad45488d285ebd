"""`captioncrafter evaluate` with files: its options, its table."""

import json
from pathlib import Path

import pytest

from command_line import status_of
from tiny import captions_of_picture


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Predictions of three images, references of four, and training captions, among them one of the predictions."""
    rows = (
        [{"image_id": n, "caption": captions_of_picture(n)[0]} for n in range(3)],
        [{"image_id": n, "captions": captions_of_picture(n)[1:]} for n in range(4)],
        [{"image_id": n, "captions": captions_of_picture(n)} for n in (2, 7)],
    )
    paths = (tmp_path / "mine.jsonl", tmp_path / "references.jsonl", tmp_path / "train.jsonl")
    for path, lines in zip(paths, rows, strict=True):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def test_a_part_ends_3_and_the_table_tells_of_it_and_of_the_captions_as_texts(
    files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
):
    predictions, references, train = files

    status = status_of("evaluate", predictions, "--references", references, "--allow-partial", "--train", train)

    told = capsys.readouterr()
    shown = " ".join(told.out.split())
    assert status == 3
    assert "only the 3 images that all share are taken" in " ".join(told.err.split())
    assert "3 images, a part of all; × 100" in shown
    assert "new to training, % │ 66.7" in shown
    assert "words a caption │ 6.0" in shown
    assert "repeat a phrase, % │ 0.0" in shown


def test_json_holds_what_scores_json_holds(files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]):
    predictions, references, train = files
    words = ("evaluate", predictions, "--references", references, "--allow-partial", "--json")

    assert status_of(*words, "--document-frequencies", train, "--out", predictions.parent / "out") == 3

    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((predictions.parent / "out" / "scores.json").read_text())
    assert told["scorer"]["document_frequencies"] == str(train)


def test_all_images_end_0_though_a_part_was_allowed(files: tuple[Path, Path, Path]):
    predictions, references, _ = files
    references.write_text("".join(line + "\n" for line in references.read_text().splitlines()[:3]))

    assert status_of("evaluate", predictions, "--references", references, "--allow-partial") == 0


def test_a_revision_of_no_clip_is_refused(files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]):
    assert status_of("evaluate", files[0], "--references", files[1], "--clip-revision", "c237dc4") == 2

    assert "clip_revision is a commit of clip_model" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--train", "--images"])
def test_what_a_run_knows_itself_is_refused_beside_it(
    option: str, files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
):
    assert status_of("evaluate", "--run", files[0].parent, option, files[2]) == 2

    assert f"{option} does not go with the rest of this command" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_a_java_that_is_none_is_refused_by_name(
    verb: str, files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
):
    predictions, references, _ = files
    other = predictions.with_name("other.jsonl")
    other.write_bytes(predictions.read_bytes())
    systems = [predictions] if verb == "evaluate" else [predictions, other]

    status = status_of(verb, *systems, "--references", references, "--allow-partial", "--java", predictions)

    assert status == 2
    assert f"{predictions}: not a Java" in " ".join(capsys.readouterr().err.split())
