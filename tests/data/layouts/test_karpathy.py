"""Karpathy's splits of COCO, Flickr8k and Flickr30k."""

import json
from pathlib import Path

import pytest

from captioncrafter.data.layouts.detect import read_source
from captioncrafter.errors import DataError
from captioncrafter.stages.prepare import prepare
from sources import photo, write_coco, write_json, write_karpathy_coco, write_karpathy_flickr8k


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """COCO's photos and Karpathy's file of them."""
    write_coco(tmp_path / "coco")
    for file in (tmp_path / "coco" / "annotations").iterdir():
        file.unlink()
    return write_karpathy_coco(tmp_path / "coco")


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    return write_karpathy_flickr8k(tmp_path / "flickr8k")


def test_cocos_photos_come_with_their_numbers_and_restval_is_trained_on(root: Path):
    source = read_source(root)

    assert [(one.image_id, one.split) for one in source.examples] == [
        ("9", "train"),
        ("10", "test"),
        ("12", "train"),
        ("13", "validation"),
    ]
    assert source.examples[2].captions == ("Photo 12, told 0.", "Photo 12, told 1.")


def test_it_is_said_that_restval_is_trained_on(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    audit = prepare(root, tmp_path / "out")

    assert audit.splits_from == "dataset_coco.json, its 1 image of restval in train"
    assert "splits from dataset_coco.json, its 1 image of restval in train" in capsys.readouterr().err


def test_flickrs_photos_are_called_by_their_files(flickr8k: Path):
    source = read_source(flickr8k)

    assert [(one.image_id, one.split) for one in source.examples] == [
        ("0.jpg", "train"),
        ("1.jpg", "validation"),
        ("2.jpg", "test"),
    ]
    assert source.splits_from == "dataset_flickr8k.json"
    assert source.licence.startswith("Flickr8k was published for non-commercial research")


def test_the_file_may_lie_beside_the_folder_of_cocos_photos(root: Path):
    beside = root.parent / "caption_datasets"
    beside.mkdir()
    (root / "dataset_coco.json").rename(beside / "dataset_coco.json")

    assert len(read_source(beside).examples) == 4


def test_cocos_photos_of_2017_serve_as_well(tmp_path: Path):
    write_coco(tmp_path, year="2017", train=4, val=1)
    write_karpathy_coco(tmp_path)

    source = read_source(tmp_path, "karpathy")

    assert [(one.image_id, one.file.parent.name) for one in source.examples] == [
        ("9", "train2017"),
        ("10", "train2017"),
        ("12", "train2017"),
        ("13", "val2017"),
    ]


def test_photos_that_all_lie_in_one_folder_are_found(root: Path):
    (root / "images").mkdir()
    for name in ("train2014", "val2014"):
        for file in list((root / name).iterdir()):
            file.rename(root / "images" / file.name)
        (root / name).rmdir()

    assert len(read_source(root).examples) == 4


def test_a_photo_that_is_not_there_is_named_and_so_is_one_that_is_damaged(root: Path, tmp_path: Path):
    (root / "val2014" / "COCO_val2014_000000000013.jpg").unlink()
    (root / "train2014" / "COCO_train2014_000000000010.jpg").write_bytes(photo(10)[:-30])

    audit = prepare(root, tmp_path / "out")

    assert audit.listed_images_absent == ("val2014/COCO_val2014_000000000013.jpg",)
    assert [line.place for line in audit.captions_without_image] == ["dataset_coco.json, entry 3 of images"] * 2
    assert [one.image for one in audit.images_set_aside] == ["10"]
    assert {name: split.images for name, split in audit.splits.items()} == {"train": 2, "validation": 0, "test": 0}


def test_of_several_files_one_has_to_be_given(flickr8k: Path):
    (flickr8k / "dataset_coco.json").write_text((flickr8k / "dataset_flickr8k.json").read_text())

    with pytest.raises(DataError) as refused:
        read_source(flickr8k)

    assert str(refused.value) == (
        f"{flickr8k}: holds dataset_coco.json, dataset_flickr8k.json. Give the one that is meant: captioncrafter "
        f"prepare {flickr8k / 'dataset_coco.json'} --out DATASET"
    )
    assert len(read_source(flickr8k / "dataset_flickr8k.json").examples) == 3


def test_a_file_of_another_name_is_read_when_the_layout_is_named(flickr8k: Path):
    (flickr8k / "dataset_flickr8k.json").rename(flickr8k / "dataset.json")

    assert len(read_source(flickr8k / "dataset.json", "karpathy").examples) == 3


def test_a_split_that_is_none_is_refused_by_its_entry(flickr8k: Path):
    file = flickr8k / "dataset_flickr8k.json"
    value = json.loads(file.read_text())
    value["images"][1]["split"] = "dev"
    write_json(file, value)

    with pytest.raises(DataError, match=r"entry 2 of images: expected a split among train, restval, val, test, found"):
        read_source(flickr8k)
