"""What makes scores comparable: images seen in training, the corpus behind CIDEr."""

import json
from pathlib import Path

import datasets
import pytest

from captioncrafter.data.pictures import pictures_in, pictures_of
from captioncrafter.data.splits import CaptionedImages, load_splits
from captioncrafter.metrics.references import References
from captioncrafter.recipe import Data, Recipe
from captioncrafter.runs import Run
from captioncrafter.stages.protocol import Trained, corpus, describe_corpus
from captioncrafter.storage import write_json
from tiny import captions_of_picture, picture, write_tiny_dataset


def write_lines(path: Path, captions: dict[str, list[str]]) -> Path:
    path.write_text(
        "".join(json.dumps({"image_id": image, "captions": texts}) + "\n" for image, texts in captions.items())
    )
    return path


def named_anew(images: CaptionedImages) -> CaptionedImages:
    """The same images under other ids."""
    return CaptionedImages(images.dataset.map(lambda row: {"image_id": f"other-{row['image_id']}"}))


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, CaptionedImages]:
    """Three training and two validation images, all different."""
    return load_splits(Data(path=str(write_tiny_dataset(tmp_path / "data", train=3, validation=2))))


def test_images_trained_on_are_found_by_their_bytes_under_another_name(
    splits: dict[str, CaptionedImages], capsys: pytest.CaptureFixture[str]
):
    datasets.disable_progress_bars()
    renamed = pictures_of(named_anew(splits["train"]))

    told = Trained.of_images(splits["train"], "data").seen(renamed, renamed)

    assert told["images"] == 3
    assert told["image_ids"] == ["other-picture-0.png", "other-picture-1.png", "other-picture-2.png"]
    assert told["compared_by"] == "image bytes"
    assert "3 of the 3 evaluated images were in training (data), by their image bytes" in capsys.readouterr().err


def test_images_not_trained_on_raise_no_alarm(splits: dict[str, CaptionedImages], capsys: pytest.CaptureFixture[str]):
    pictures = pictures_of(splits["validation"])

    told = Trained.of_images(splits["train"], "data").seen(pictures, pictures)

    assert (told["images"], told["image_ids"], told["training_images"]) == (0, [], 3)
    assert capsys.readouterr().err == ""


def test_the_same_name_on_another_image_is_no_image_seen(splits: dict[str, CaptionedImages], photos: Path):
    (photos / "picture-0.png").write_bytes(picture(9))
    pictures = pictures_in(photos, ["picture-0.png"], {})

    assert Trained.of_images(splits["train"], "data").seen(pictures, pictures)["images"] == 0


def test_without_the_images_names_are_compared_and_that_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trained = Trained.read(write_lines(tmp_path / "train.jsonl", {"1": ["a dog"], "2": ["a cat"]}))

    told = trained.seen(["2", "3"], None)

    assert (told["images"], told["image_ids"], told["compared_by"]) == (1, ["2"], "image ids")
    assert "by their image ids: 2" in capsys.readouterr().err


def test_the_training_split_of_a_dataset_is_read_with_its_images(splits: dict[str, CaptionedImages], tmp_path: Path):
    trained = Trained.read(tmp_path / "data")

    assert trained.contents == Trained.of_images(splits["train"], "data").contents
    assert list(trained.captions) == [text for number in range(3) for text in captions_of_picture(number)]


def write_run(folder: Path, data: Path, branched_from: Path | None) -> Run:
    """What of a run tells what it was trained on."""
    write_json(folder / "recipe.json", Recipe(data=Data(path=str(data))).model_dump(mode="json"))
    write_json(folder / "manifest.json", {"branched_from": branched_from and str(branched_from)})
    return Run.open(folder)


def test_a_branch_was_trained_on_what_the_run_before_it_was(splits: dict[str, CaptionedImages], tmp_path: Path):
    write_tiny_dataset(tmp_path / "other", train=6, validation=1)
    write_run(tmp_path / "older", tmp_path / "other", tmp_path / "younger")  # a circle, as renaming can make one
    younger = write_run(tmp_path / "younger", tmp_path / "data", tmp_path / "older")
    pictures = pictures_of(splits["validation"])

    told = Trained.of_run(younger, splits["train"]).seen(pictures, pictures)

    assert told["images"] == 2
    assert told["training_data"] == f"{tmp_path / 'data'}, {tmp_path / 'other'}"


def test_a_run_before_it_that_is_gone_is_told(
    splits: dict[str, CaptionedImages], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = write_run(tmp_path / "younger", tmp_path / "data", tmp_path / "gone")

    assert Trained.of_run(run, splits["train"]).contents == Trained.of_images(splits["train"], "data").contents
    assert "what the run branched off was trained on is not known here" in capsys.readouterr().err


def test_only_some_of_many_images_seen_are_listed(tmp_path: Path):
    trained = Trained.read(write_lines(tmp_path / "train.jsonl", {str(number): ["a"] for number in range(50)}))

    told = trained.seen(list(map(str, range(50))), None)

    assert (told["images"], len(told["image_ids"])) == (50, 20)


def test_no_corpus_is_asked_for_by_default():
    references = References({"1": ["a dog"]})

    assert corpus(None) is None
    assert describe_corpus(references, None) == {
        "document_frequencies": "evaluated references",
        "document_frequencies_images": 1,
        "document_frequencies_hash": references.fingerprint,
    }


def test_a_corpus_is_told_by_name_and_content(tmp_path: Path):
    path = str(write_lines(tmp_path / "corpus.jsonl", {"1": ["a dog"], "2": ["a cat"]}))

    told = describe_corpus(References({"9": ["a dog"]}, document_frequencies=corpus(path)), path)

    assert told == {
        "document_frequencies": path,
        "document_frequencies_images": 2,
        "document_frequencies_hash": References({"1": ["a dog"], "2": ["a cat"]}).fingerprint,
    }


def test_the_corpus_of_a_dataset_is_its_training_captions(splits: dict[str, CaptionedImages], tmp_path: Path):
    found = corpus(str(tmp_path / "data"))

    assert found is not None
    assert found.image_ids == tuple(image.image_id for image in splits["train"])
