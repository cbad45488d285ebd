"""Dataset folders: ours, and those that somebody saved with `datasets`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from captioncrafter.data.dataset import (
    FEATURES,
    PROMPTED_FEATURES,
    fingerprint,
    image_bytes,
    image_hashes,
    load_dataset_folder,
)
from captioncrafter.data.images import image_hash
from captioncrafter.errors import DataError
from tiny import captions_of_picture, picture, write_tiny_dataset

QUESTION = "Question: what colour is the dog? Answer:"


def rows(**columns: Sequence[Any]) -> datasets.Dataset:
    """Two captioned pictures, with some columns replaced."""
    usual: dict[str, Sequence[Any]] = {
        "image": [{"bytes": picture(number), "path": None} for number in range(2)],
        "image_id": ["0.png", "1.png"],
        "captions": [captions_of_picture(number) for number in range(2)],
    }
    return datasets.Dataset.from_dict(usual | columns, features=FEATURES)


def prompted(*prompts: str | None) -> datasets.Dataset:
    """The two captioned pictures, each with a prompt."""
    return datasets.Dataset.from_list(
        [row | {"prompt": prompt} for row, prompt in zip(raw(rows()), prompts, strict=True)], features=PROMPTED_FEATURES
    )


def raw(split: datasets.Dataset) -> list[dict[str, Any]]:
    return split.cast_column("image", datasets.Image(decode=False)).to_list()


def saved(folder: Path, split: datasets.Dataset) -> Path:
    datasets.disable_progress_bars()
    datasets.DatasetDict(train=split).save_to_disk(folder)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as refused:
        load_dataset_folder(folder)
    return str(refused.value)


def test_a_folder_that_somebody_saved_with_our_columns_is_read(tmp_path: Path):
    splits = load_dataset_folder(saved(tmp_path / "d", rows().add_column("source", ["web", "web"])))

    assert splits["train"]["image_id"] == ["0.png", "1.png"]


def test_a_missing_folder_is_told_how_to_make_one(tmp_path: Path):
    assert refusal(tmp_path / "d") == (
        f"{tmp_path / 'd'}: no such dataset folder. `captioncrafter prepare SOURCE --out {tmp_path / 'd'}` makes one."
    )


def test_another_folder_is_no_dataset_folder(tmp_path: Path):
    assert "not a dataset folder (dataset_dict.json is missing)" in refusal(tmp_path)


def test_one_split_alone_is_called_that(tmp_path: Path):
    folder = saved(tmp_path / "d", rows())

    assert "holds one split of a dataset" in refusal(folder / "train")


def test_missing_columns_are_named_with_those_there(tmp_path: Path):
    folder = saved(tmp_path / "d", rows().rename_column("captions", "text"))

    assert "split train has no column captions; it has image, image_id, text." in refusal(folder)


def test_columns_of_another_kind_are_named(tmp_path: Path):
    folder = saved(tmp_path / "d", rows().remove_columns("captions").add_column("captions", ["a dog", "a cat"]))

    assert "split train: captions is Value('string')" in refusal(folder)


@pytest.mark.parametrize("file", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("damage", ["cut", "gone", "nonsense", "null"])
def test_a_damaged_dataset_is_refused_by_name(tmp_path: Path, file: str, damage: str):
    folder = write_tiny_dataset(tmp_path / "d")
    broken = folder / "train" / file
    content = broken.read_bytes()
    broken.unlink()
    if damage != "gone":
        broken.write_bytes(content[: len(content) // 2] if damage == "cut" else damage.encode())

    assert refusal(folder).startswith(f"{folder}: the dataset in it is damaged (")


def test_an_image_without_captions_is_refused_by_name(tmp_path: Path):
    folder = saved(tmp_path / "d", rows(captions=[["a dog"], []]))

    assert refusal(folder) == (
        f"{folder}: split train: 1.png has no captions, or one that is empty. Give every image at least one."
    )


@pytest.mark.parametrize("captions", [None, [None], ["a dog", "  "]])
def test_a_caption_that_is_no_text_is_refused_by_the_images_name(tmp_path: Path, captions: list[str | None] | None):
    folder = saved(tmp_path / "d", rows(captions=[["a dog"], captions]))

    assert "split train: 1.png has no captions, or one that is empty" in refusal(folder)


def test_an_id_that_two_images_share_is_refused(tmp_path: Path):
    folder = saved(tmp_path / "d", rows(image_id=["same", "same"]))

    assert refusal(folder) == (
        f"{folder}: split train: two images are called same. Predictions could not be told apart; make the ids unique."
    )


def test_a_prompt_for_each_row_is_read(tmp_path: Path):
    splits = load_dataset_folder(saved(tmp_path / "d", prompted(QUESTION, None)))

    assert splits["train"]["prompt"] == [QUESTION, None]


def test_a_column_of_no_prompts_is_read(tmp_path: Path):
    split = rows().add_column("prompt", [None, None])
    assert split.features["prompt"] == datasets.Value("null")

    assert load_dataset_folder(saved(tmp_path / "d", split))["train"]["prompt"] == [None, None]


def test_prompts_that_are_no_texts_are_refused(tmp_path: Path):
    folder = saved(tmp_path / "d", rows().add_column("prompt", [1, 2]))

    assert refusal(folder) == (
        f"{folder}: split train: prompt is Value('int64'). Needed: image an Image, image_id a string, captions a list "
        "of strings, prompt a string."
    )


def test_an_id_that_two_prompts_share_is_refused_and_told_why(tmp_path: Path):
    split = prompted(QUESTION, "Question: how many dogs are there? Answer:")
    folder = saved(tmp_path / "d", split.map(lambda _: {"image_id": "same"}))

    assert refusal(folder).endswith("make the ids unique. An image with several prompts needs one for each.")


def test_an_image_without_an_id_is_refused_by_its_place(tmp_path: Path):
    folder = saved(tmp_path / "d", rows(image_id=["0.png", None]))

    assert refusal(folder) == f"{folder}: split train: row 1 has no image_id. Give every image one of its own."


def test_a_dataset_that_points_at_image_files_is_refused(tmp_path: Path):
    split = rows(image=[{"bytes": None, "path": "/photos/0.png"}] * 2)

    with pytest.raises(DataError, match=r"holds a path \(/photos/0\.png\) instead of the image"):
        image_bytes(split, 0)


def test_images_are_read_as_they_were_stored(tmp_path: Path):
    split = load_dataset_folder(write_tiny_dataset(tmp_path / "d", train=4))["train"]

    assert [image_bytes(split, row) for row in range(4)] == [picture(row) for row in range(4)]
    assert image_hashes(split) == [image_hash(picture(row)) for row in range(4)]


def test_hashes_follow_a_selection_of_rows():
    assert image_hashes(rows().select([1])) == [image_hash(picture(1))]


def test_hashes_do_not_know_of_prompts():
    assert image_hashes(prompted("a", "b")) == image_hashes(rows())


@pytest.mark.parametrize(
    "changed",
    [
        {"image_id": ["0.png", "2.png"]},
        {"image": [{"bytes": picture(0), "path": None}, {"bytes": picture(2), "path": None}]},
        {"captions": [captions_of_picture(0), captions_of_picture(2)]},
        {"captions": [captions_of_picture(0), ["".join(captions_of_picture(1))]]},
    ],
)
def test_the_fingerprint_changes_with_any_id_image_or_caption(changed: dict[str, Sequence[Any]]):
    assert fingerprint(rows(**changed)) != fingerprint(rows())


def test_the_fingerprint_without_prompts_is_that_of_earlier_releases():
    columns = {"image": [{"bytes": b"not decoded", "path": None}], "image_id": ["0.png"], "captions": [["a dog"]]}

    assert fingerprint(datasets.Dataset.from_dict(columns, features=FEATURES)) == "4d3bb99e8cc2118b04eb035b95423a51"


def test_rows_without_a_prompt_have_the_fingerprint_of_a_dataset_without_the_column():
    assert fingerprint(prompted(None, None)) == fingerprint(rows())


def test_the_fingerprint_changes_with_any_prompt():
    different = {fingerprint(prompted(*prompts)) for prompts in [(None, None), ("", None), (None, ""), ("a", None)]}

    assert len(different) == 4


def test_a_prompt_is_not_taken_for_a_caption():
    as_caption = rows(captions=[[*captions_of_picture(0), "red"], captions_of_picture(1)])

    assert fingerprint(prompted("red", None)) != fingerprint(as_caption)


def test_the_fingerprint_changes_with_the_order():
    assert fingerprint(rows().select([1, 0])) != fingerprint(rows())


def test_the_fingerprint_is_that_of_the_rows_however_they_are_stored(tmp_path: Path):
    datasets.disable_progress_bars()
    datasets.DatasetDict(train=rows()).save_to_disk(tmp_path / "d", num_shards={"train": 2})

    assert fingerprint(load_dataset_folder(tmp_path / "d")["train"]) == fingerprint(rows())
