"""The captioned images of a recipe, split by split."""

from pathlib import Path

import datasets
import pytest

from captioncrafter import recipe
from captioncrafter.data.dataset import FEATURES, PROMPTED_FEATURES, fingerprint
from captioncrafter.data.images import image_hash
from captioncrafter.data.splits import CaptionedImages, load_splits
from captioncrafter.errors import DataError
from tiny import captions_of_picture, picture, write_tiny_dataset

SCENES = recipe.Scenes(train=3, validation=2, test=2, image_size=32)
QUESTIONS = recipe.Scenes(train=3, validation=2, test=2, image_size=32, task="questions", questions_per_scene=2)


def folder(tmp_path: Path, **counts: int) -> str:
    return str(write_tiny_dataset(tmp_path / "d", **counts))


def test_the_splits_of_a_dataset_folder_come_with_their_images(tmp_path: Path):
    splits = load_splits(recipe.Data(path=folder(tmp_path, train=3, validation=2, test=1)))

    assert {name: len(images) for name, images in splits.items()} == {"train": 3, "validation": 2, "test": 1}
    assert [image.image_id for image in splits["validation"]] == ["picture-3.png", "picture-4.png"]


def test_an_image_knows_its_captions_and_hash_and_decodes_itself(tmp_path: Path):
    image = list(load_splits(recipe.Data(path=folder(tmp_path)))["train"])[1]

    assert image.captions == tuple(captions_of_picture(1))
    assert image.content == image_hash(picture(1))
    assert (image.decode().mode, image.decode().size) == ("RGB", (40, 40))


def test_a_folder_without_a_test_split_has_none(tmp_path: Path):
    assert list(load_splits(recipe.Data(path=folder(tmp_path, test=0)))) == ["train", "validation"]


def test_splits_of_other_names_are_left_alone(tmp_path: Path):
    path = folder(tmp_path)
    other = datasets.load_from_disk(path)
    other["extra"] = other["train"]
    other.save_to_disk(str(tmp_path / "more"))

    assert list(load_splits(recipe.Data(path=str(tmp_path / "more")))) == ["train", "validation"]


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_an_empty_split_that_training_needs_is_refused_by_name(tmp_path: Path, empty: str):
    path = folder(tmp_path, **{empty: 0})

    with pytest.raises(DataError) as refused:
        load_splits(recipe.Data(path=path))

    assert str(refused.value).startswith(f"{path}: the {empty} split is empty; training needs images to learn from")


def test_train_images_takes_the_first_and_leaves_the_other_splits_whole(tmp_path: Path):
    splits = load_splits(recipe.Data(path=folder(tmp_path, train=5, validation=4), train_images=2))

    assert [image.image_id for image in splits["train"]] == ["picture-0.png", "picture-1.png"]
    assert splits["train"].first_different(9)[1].content == image_hash(picture(1))
    assert len(splits["validation"]) == 4


def test_more_train_images_than_there_are_takes_all(tmp_path: Path):
    assert len(load_splits(recipe.Data(path=folder(tmp_path, train=5), train_images=99))["train"]) == 5


def test_scenes_are_drawn_as_the_recipe_says():
    splits = load_splits(recipe.Data(scenes=SCENES))

    assert {name: len(images) for name, images in splits.items()} == {"train": 3, "validation": 2, "test": 2}
    image = next(iter(splits["test"]))
    assert image.decode().size == (32, 32)
    assert len(image.captions) == 5


def test_an_image_of_a_folder_without_prompts_has_none(tmp_path: Path):
    splits = load_splits(recipe.Data(path=folder(tmp_path)))

    assert {image.prompt for image in splits["train"]} == {None}


def test_each_row_comes_with_its_own_prompt_and_one_hash_for_each_image():
    prompts = ["what is it?", "", None]
    rows = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": picture(0), "path": None}] * 3,
            "image_id": list("abc"),
            "captions": [["a dog"]] * 3,
            "prompt": prompts,
        },
        features=PROMPTED_FEATURES,
    )

    images = list(CaptionedImages(rows))

    assert [image.prompt for image in images] == prompts
    assert {image.content for image in images} == {image_hash(picture(0))}


def test_questions_about_scenes_come_as_the_recipe_says():
    splits = load_splits(recipe.Data(scenes=QUESTIONS))

    assert {name: len(images) for name, images in splits.items()} == {"train": 6, "validation": 4, "test": 4}
    one, other = list(splits["test"])[:2]
    assert one.prompt != other.prompt
    assert one.content == other.content


def test_questions_are_about_the_scenes_that_would_be_captioned():
    asked, captioned = (
        {image.content for image in load_splits(recipe.Data(scenes=scenes))["train"]} for scenes in (QUESTIONS, SCENES)
    )

    assert asked == captioned


def test_train_images_counts_for_scenes_too():
    assert len(load_splits(recipe.Data(scenes=SCENES, train_images=2))["train"]) == 2


def test_a_recipe_that_names_no_data_is_refused_with_both_ways_out():
    with pytest.raises(DataError) as refused:
        load_splits(recipe.Data())

    assert str(refused.value) == (
        "the recipe names no data: give data.path (a folder that `captioncrafter prepare` wrote) or [data.scenes]."
    )


def test_the_fingerprint_is_that_of_the_rows(tmp_path: Path):
    images = load_splits(recipe.Data(path=folder(tmp_path)))["train"]

    assert images.fingerprint() == fingerprint(images.dataset)


def test_the_first_different_images_leave_out_copies():
    numbers = [0, 0, 1, 0, 2]
    rows = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": picture(number), "path": None} for number in numbers],
            "image_id": list("abcde"),
            "captions": [["a dog"]] * 5,
        },
        features=FEATURES,
    )

    images = CaptionedImages(rows)

    assert [image.image_id for image in images.first_different(2)] == ["a", "c"]
    assert [image.image_id for image in images.first_different(9)] == ["a", "c", "e"]
