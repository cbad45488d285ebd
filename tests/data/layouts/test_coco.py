"""COCO as its authors publish it, and single files of its format."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from captioncrafter.data.caption_files import read_references
from captioncrafter.data.layouts.detect import read_source
from captioncrafter.errors import DataError
from captioncrafter.stages.prepare import prepare
from sources import coco_name, photo, write_coco, write_json, write_karpathy_coco, write_photos


def changed(file: Path, key: str, value: Any) -> Path:
    """Rewrites one array of a captions file."""
    write_json(file, json.loads(file.read_text()) | {key: value})
    return file


def annotation(image_id: Any = 0, caption: Any = "A dog .") -> dict[str, Any]:
    return {"id": 1, "image_id": image_id, "caption": caption}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


@pytest.fixture
def captions(root: Path) -> Path:
    return root / "annotations" / "captions_train2014.json"


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_every_photo_comes_with_its_number_its_captions_and_its_split(year: str, tmp_path: Path):
    source = read_source(write_coco(tmp_path, year=year))

    assert [(one.image_id, one.split) for one in source.examples] == [
        ("9", "train"),
        ("10", "train"),
        ("11", "train"),
        ("12", "validation"),
        ("13", "validation"),
    ]
    assert source.examples[3].captions == ("Photo 12, told 0.", "Photo 12, told 1.")
    assert source.examples[3].file == tmp_path / f"val{year}" / coco_name(12, "val", year)
    assert source.splits_from == f"captions_train{year}.json, captions_val{year}.json"


@pytest.mark.parametrize("images", ["images", "data"])
def test_the_folders_of_photos_may_lie_deeper(images: str, tmp_path: Path):
    assert len(read_source(write_coco(tmp_path, images=images)).examples) == 5


@pytest.mark.parametrize("given", ["annotations", "annotations/captions_val2014.json"])
def test_the_annotations_are_enough_where_the_photos_lie_beside_them(given: str, root: Path):
    assert len(read_source(root / given).examples) == 5


def test_photos_that_all_lie_in_one_folder_are_found(root: Path):
    flat = write_photos(root / "images", 0)
    for name in ("train2014", "val2014"):
        for file in list((root / name).iterdir()):
            file.rename(flat / file.name)
        (root / name).rmdir()

    assert [one.split for one in read_source(root).examples] == ["train"] * 3 + ["validation"] * 2


def test_the_datasets_references_are_those_of_cocos_own_annotations_by_the_same_ids(root: Path, tmp_path: Path):
    prepare(root, tmp_path / "out")

    theirs = read_references(root / "annotations" / "captions_val2014.json")
    assert read_references(tmp_path / "out", "validation") == {
        image: [caption.strip() for caption in captions] for image, captions in theirs.items()
    }


def test_a_set_whose_photos_are_not_there_is_left_out_and_told(root: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(root / "train2014")

    source = read_source(root)

    assert [one.image_id for one in source.examples] == ["12", "13"]
    assert (source.captions_without_image, source.splits_from) == ([], "captions_val2014.json")
    told = "captions_train2014.json: left out, for there is no folder train2014 with its images"
    assert told in capsys.readouterr().err


def test_of_two_years_the_one_whose_photos_are_there_is_read(root: Path):
    write_coco(root, year="2017")
    for name in ("train2014", "val2014"):
        shutil.rmtree(root / name)

    assert read_source(root).splits_from == "captions_train2017.json, captions_val2017.json"


def test_of_two_years_with_photos_one_has_to_be_given(root: Path):
    write_coco(root, year="2017")

    with pytest.raises(DataError) as refused:
        read_source(root)

    file = root / "annotations" / "captions_train2014.json"
    assert str(refused.value) == (
        f"{root}: holds COCO's captions of 2014 and of 2017, which are the same images in other splits. Give the file "
        f"of one: captioncrafter prepare {file} --out DATASET"
    )
    assert read_source(file.with_name("captions_train2017.json")).splits_from.startswith("captions_train2017")


def test_official_captions_beside_karpathys_file_are_to_be_chosen_from(root: Path):
    write_karpathy_coco(root)

    with pytest.raises(DataError, match=r"2 ways: coco \(annotations/captions_train2014\.json\); karpathy \(dataset_"):
        read_source(root)

    assert read_source(root, "coco").layout == "coco"


def test_photos_that_are_missing_damaged_or_uncaptioned_are_named_and_the_rest_goes_on(
    root: Path, captions: Path, tmp_path: Path
):
    folder = root / "train2014"
    (folder / coco_name(9, "train", "2014")).write_bytes(photo(9)[:-30])
    (folder / coco_name(10, "train", "2014")).unlink()
    (folder / "holiday.jpg").write_bytes(photo(1))
    changed(captions, "annotations", [*json.loads(captions.read_text())["annotations"], annotation(777)])

    audit = prepare(root, tmp_path / "out")

    assert audit.images == 3
    assert [one.image for one in audit.images_set_aside] == ["9"]
    assert audit.listed_images_absent == (f"train2014/{coco_name(10, 'train', '2014')}",)
    assert audit.images_without_captions == ("train2014/holiday.jpg",)
    assert [line.place for line in audit.captions_without_image] == [
        "captions_train2014.json, entry 2 of annotations",
        "captions_train2014.json, entry 5 of annotations",
        "captions_train2014.json, entry 7 of annotations",
    ]


def test_one_file_of_cocos_format_is_read_by_name_and_has_no_splits(tmp_path: Path):
    write_photos(tmp_path / "photos", 1)
    images = [{"id": 0, "file_name": "0.jpg"}]
    write_json(tmp_path / "mine.json", {"images": images, "annotations": [annotation()]})

    source = read_source(tmp_path / "mine.json", "coco")

    assert [(one.image_id, one.captions, one.split) for one in source.examples] == [("0", ("A dog .",), None)]
    assert source.splits_from == ""


def test_a_file_name_that_leads_out_of_the_folder_reaches_nothing(root: Path, captions: Path):
    (root / "secret.jpg").write_bytes(photo(0))
    changed(captions, "images", [{"id": 9, "file_name": "../secret.jpg"}])

    source = read_source(root)

    assert source.listed_images_absent == ["train2014/../secret.jpg"]
    assert [one.image_id for one in source.examples] == ["12", "13"]


def test_an_image_of_both_sets_is_refused(root: Path, captions: Path):
    name = coco_name(9, "train", "2014")
    (root / "val2014" / name).write_bytes(photo(9))
    value = json.loads(captions.read_text())
    write_json(captions.with_name("captions_val2014.json"), value)

    with pytest.raises(DataError, match="1 image id stands for more than one image, the first: 9"):
        read_source(root)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("annotations", [{"id": 1, "image_id": 9, "bbox": []}], "entry 1 of annotations: expected a text called capt"),
        ("annotations", [annotation(True)], "entry 1 of annotations: expected a text called image_id"),
        ("annotations", [annotation(), 7], "entry 2 of annotations: expected a text called image_id"),
        ("annotations", [annotation(caption="\ud83d")], "entry 1 of annotations: the caption holds half a character"),
        ("images", [{"id": 9}], "entry 1 of images: expected a text called file_name"),
        ("images", [{"id": 9, "file_name": "a.jpg"}] * 2, "entry 2 of images: a second image with the id 9"),
    ],
)
def test_an_entry_that_is_written_otherwise_is_named(key: str, value: Any, words: str, root: Path, captions: Path):
    changed(captions, key, value)

    with pytest.raises(DataError) as refused:
        read_source(root)

    assert f"{captions}, {words}" in str(refused.value)
