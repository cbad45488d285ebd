"""CLIPScore and SPICE in comparisons: as the runs kept them image by image, or computed when asked for."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioncrafter.data.splits import load_splits
from captioncrafter.errors import DataError, InputError
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import METRICS, score
from captioncrafter.recipe import Data
from captioncrafter.stages.compare import compare
from captioncrafter.stages.evaluate import evaluate_files
from clip import write_tiny_clip
from compared import FAST, VALIDATION, pictures, write_predictions, write_run
from tiny import write_tiny_dataset

CLIP = {"CLIPScore": {"model": "some/clip", "revision": "c237dc4", "weights": "f00"}}
SPICE = {"SPICE": {"jar": "spice-1.0.jar", "sha256": "abc", "Java": "17.0.1"}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and four validation images."""
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "pictures", train=6, validation=4)


@pytest.fixture(scope="module")
def people(dataset: Path) -> References:
    """What `evaluate --run` scores the validation split against."""
    images = load_splits(Data(path=str(dataset)))["validation"]
    return References({image.image_id: image.captions for image in images})


def kept(folder: Path, dataset: Path, people: References, caption: str, *, scorer: Any, **values: list[float]) -> Path:
    """A run evaluated with these further values, one for each validation image."""
    captions = pictures(caption)
    write_run(folder, dataset, captions, scorer=scorer, references_hash=people.fingerprint)
    rows = score(captions, people).rows()
    told = [row | {name: some[number] for name, some in values.items()} for number, row in enumerate(rows)]
    (folder / "image_scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    return folder


def with_clip(folder: Path, dataset: Path, people: References, caption: str, scorer: Any = CLIP) -> Path:
    """A run with CLIPScore and RefCLIPScore."""
    base = [0.5, 0.6, 0.7, 0.8] if caption == "a dog" else [0.6, 0.7, 0.8, 0.9]
    return kept(folder, dataset, people, caption, scorer=scorer, CLIPScore=base, RefCLIPScore=[x / 2 for x in base])


def test_scores_that_both_runs_kept_by_one_scorer_are_compared_image_by_image(
    tmp_path: Path, dataset: Path, people: References
):
    paths = [
        with_clip(tmp_path / text[-3:], dataset, people, text, scorer=CLIP | {"METEOR": "1.5"})
        for text in ("a dog", "a cat")
    ]

    found = compare(paths, FAST)

    assert tuple(found["differences"]["cat"]) == (*METRICS, "CLIPScore", "RefCLIPScore")
    one = found["differences"]["cat"]["CLIPScore"]
    assert (one["wins"], one["ties"], one["losses"]) == (4, 0, 0)
    assert (one["value"], one["low"], one["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert found["systems"]["dog"]["metrics"]["CLIPScore"]["value"] == pytest.approx(0.65)
    assert found["scorer"]["CLIPScore"] == CLIP["CLIPScore"]
    assert found["correction"]["tests"] == len(METRICS) + 2


def test_spice_under_another_java_is_the_same_spice(tmp_path: Path, dataset: Path, people: References):
    other = {"SPICE": SPICE["SPICE"] | {"Java": "8"}}
    first = kept(tmp_path / "first", dataset, people, "a dog", scorer=SPICE, SPICE=[0.1, 0.2, 0.3, 0.4])
    second = kept(tmp_path / "second", dataset, people, "a cat", scorer=other, SPICE=[0.1, 0.2, 0.3, 0.8])

    found = compare([first, second], FAST, metrics=["spice"])

    assert found["differences"]["second"]["SPICE"]["value"] == pytest.approx(0.1)


def test_what_one_run_alone_kept_is_not_compared_and_that_is_said(
    tmp_path: Path, dataset: Path, people: References, capsys: pytest.CaptureFixture[str]
):
    first = with_clip(tmp_path / "first", dataset, people, "a dog")
    file = write_predictions(tmp_path / "file.jsonl", pictures("a cat"))

    found = compare([first, file], FAST)

    assert tuple(found["differences"]["file"]) == METRICS
    assert f"CLIPScore and RefCLIPScore: not compared, for there is none of {file}" in capsys.readouterr().err
    with pytest.raises(InputError, match="no metric"):
        compare([first, file], FAST, metrics=["CLIPScore"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scorer": {"CLIPScore": {"weights": "bad"}}}, "first and .*second were scored by different ones"),
        ({"references_hash": "f00"}, "second was scored against other references"),
        ({}, r"second/predictions\.jsonl has no image_scores\.jsonl beside it with a value of every image"),
    ],
)
def test_scores_that_do_not_compare_are_left_out_with_the_reason(
    changes: dict[str, Any],
    said: str,
    tmp_path: Path,
    dataset: Path,
    people: References,
    capsys: pytest.CaptureFixture[str],
):
    paths = [with_clip(tmp_path / name, dataset, people, "a dog") for name in ("first", "second")]
    file = paths[1] / ("scores.json" if changes else "image_scores.jsonl")
    if changes:
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    else:
        file.write_text(file.read_text().split("\n", 1)[1])

    found = compare(paths, FAST)

    assert tuple(found["differences"]["second"]) == METRICS
    assert re.search(said, " ".join(capsys.readouterr().err.split()))


def test_scores_of_other_captions_than_are_there_now_are_refused(tmp_path: Path, dataset: Path, people: References):
    paths = [with_clip(tmp_path / name, dataset, people, "a dog") for name in ("first", "second")]
    write_predictions(paths[1] / "predictions.jsonl", pictures("a red cat in the park"))

    with pytest.raises(DataError, match=r"second/predictions\.jsonl: no longer the captions"):
        compare(paths, FAST)


def test_clip_score_is_computed_as_evaluate_does_when_asked_for(tmp_path: Path, dataset: Path, people: References):
    options = FAST.model_copy(update={"clip_model": str(write_tiny_clip(tmp_path / "clip"))})
    run = with_clip(tmp_path / "run", dataset, people, "a dog")
    file = write_predictions(tmp_path / "file.jsonl", pictures("a cat", "two red dogs"))

    found = compare([run, file], options)

    expected = evaluate_files(file, dataset, split="validation", options=options).scores
    assert found["systems"]["file"]["metrics"] == expected["metrics"]
    assert found["scorer"]["CLIPScore"] == expected["scorer"]["CLIPScore"]
    single = [row["CLIPScore"] for row in evaluate_files(file, dataset, options=options).image_scores]
    assert found["systems"]["file"]["metrics"]["CLIPScore"]["value"] == pytest.approx(np.mean(single))
    assert len(single) == len(VALIDATION)


def test_clip_score_of_files_takes_a_folder_of_images(tmp_path: Path, photos: Path):
    clip = str(write_tiny_clip(tmp_path / "clip"))
    rows = [{"image_id": f"{number}.png", "captions": ["a dog", "a cat"]} for number in range(3)]
    references = tmp_path / "references.jsonl"
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [
        write_predictions(tmp_path / f"{text}.jsonl", {f"{number}.png": f"a {text}" for number in range(3)})
        for text in ("dog", "cat")
    ]
    options = FAST.model_copy(update={"clip_model": clip})

    found = compare(files, options, references=references, images=photos, metrics=["RefCLIPScore"])

    assert list(found["differences"]["cat"]) == ["RefCLIPScore"]
    with pytest.raises(InputError, match="CLIPScore looks at the images"):
        compare(files, options, references=references)
