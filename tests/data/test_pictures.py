"""Images by id, from a split and from a folder of files."""

from pathlib import Path

import pytest

from captioncrafter.data.images import image_hash
from captioncrafter.data.pictures import pictures_in, pictures_of
from captioncrafter.data.splits import load_splits
from captioncrafter.errors import DataError, ImageError
from captioncrafter.recipe import Data
from tiny import picture, write_tiny_dataset


def test_a_splits_pictures_are_its_images_by_id(tmp_path: Path):
    images = load_splits(Data(path=str(write_tiny_dataset(tmp_path / "data", train=1, validation=2))))["validation"]

    pictures = pictures_of(images)

    assert list(pictures) == ["picture-1.png", "picture-2.png"]
    assert pictures["picture-2.png"].content() == image_hash(picture(2))
    assert pictures["picture-2.png"].decode().size == (40, 40)


@pytest.mark.parametrize("image_id", ["0.png", "0"])
def test_a_file_is_called_as_its_id_with_or_without_its_ending(photos: Path, image_id: str):
    assert pictures_in(photos, [image_id], {})[image_id].content() == image_hash(picture(0))


def test_a_file_that_the_annotations_name_is_taken(photos: Path):
    pictures = pictures_in(photos, ["42"], {"42": "1.png"})

    assert pictures["42"].decode().size == (40, 40)
    assert pictures["42"].content() == image_hash(picture(1))


def test_images_without_a_file_are_refused_by_name(photos: Path):
    with pytest.raises(DataError, match=r"2 images have no file there, or several \(7, 8\)"):
        pictures_in(photos, ["0", "7", "8"], {})


def test_an_id_with_two_files_is_refused(photos: Path):
    (photos / "0.jpg").write_bytes(picture(0))

    with pytest.raises(DataError, match=r"1 image has no file there, or several \(0\)"):
        pictures_in(photos, ["0"], {})


def test_an_id_does_not_lead_out_of_the_folder(photos: Path):
    (photos.parent / "secret.png").write_bytes(picture(5))

    with pytest.raises(DataError, match="has no file there"):
        pictures_in(photos, ["../secret.png"], {})


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder of images"):
        pictures_in(tmp_path / "nowhere", ["0"], {})


def test_a_file_that_goes_away_is_told_by_name(photos: Path):
    pictures = pictures_in(photos, ["0"], {})
    (photos / "0.png").unlink()

    with pytest.raises(ImageError, match=r"0\.png: cannot be read"):
        pictures["0"].content()
