"""COCO as its authors publish it: `captions_train2014.json` and `captions_val2014.json` beside folders of photos.

Those of 2017 are laid out alike. One other file of COCO's format, with one folder of images, is read too where the
layout is named. Image ids are COCO's numbers, so that predictions fit COCO's own annotations.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captioncrafter import events
from captioncrafter.data.example import CaptionLine, Described, Source
from captioncrafter.data.layouts.gather import gather
from captioncrafter.data.layouts.json_arrays import array_entries
from captioncrafter.data.layouts.looking import find_file, find_folders, find_images, list_together
from captioncrafter.errors import DataError

NAME = "coco"
LOOKS_FOR = "captions_train2014.json or captions_val2014.json, or those of 2017"
LICENCE = (
    "COCO's captions are under the Creative Commons Attribution 4.0 licence (COCO Consortium; Chen et al., 2015). Each "
    "photo belongs to the person who put it on Flickr and is under Flickr's terms of use."
)

YEARS = ("2014", "2017")
SPLIT_OF = {"train": "train", "val": "validation"}
_CAPTIONS = re.compile(r"captions_(train|val)(2014|2017)\.json")


@dataclass(frozen=True)
class _Set:
    """A captions file of COCO's with the name of its folder of images and the split that they are."""

    captions: Path
    folder: str
    split: str | None


def knows(file: Path) -> bool:
    """Whether a file is called as COCO's captions are."""
    return _CAPTIONS.fullmatch(file.name) is not None


def find(root: Path) -> Path | None:
    """The first captions file of the year whose images are there, None when `root` is laid out otherwise.

    Raises `DataError` when it could be either year: both hold the same images in other splits.
    """
    found = {year: find_file(root, [f"captions_{name}{year}.json" for name in SPLIT_OF]) for year in YEARS}
    captions = {year: file for year, file in found.items() if file}
    if len(captions) > 1:
        shown = {year: file for year, file in captions.items() if find_folders(root, _folders_of(year))}
        captions = shown or captions
    if len(captions) > 1:
        raise DataError(
            f"{root}: holds COCO's captions of {' and of '.join(captions)}, which are the same images in other splits. "
            f"Give the file of one: captioncrafter prepare {next(iter(captions.values()))} --out DATASET"
        )
    return next(iter(captions.values()), None)


def read(root: Path, captions: Path) -> Source:
    """Every captioned photo of that year: the training set as train, the validation set as validation.

    A set whose folder of images is not there while the other's is, is left out, and a line says so. Raises `DataError`
    naming the entry of a file that is written otherwise.
    """
    sets = _sets(captions)
    folders = find_folders(root, [one.folder for one in sets])
    if folders:
        _tell_left_out([one for one in sets if one.folder not in folders])
        sets = [one for one in sets if one.folder in folders]
    described = [image for one in sets for image in _described(one, f"{one.folder}/" if folders else "")]
    named = [image.name for image in described if image.captions]
    return gather(
        described,
        list_together(folders) if folders else find_images(root, named, captions=captions.name),
        layout=NAME,
        licence=LICENCE if knows(captions) else "The captions file names none that is known here.",
        read_from=tuple(one.captions for one in sets),
        splits_from=", ".join(one.captions.name for one in sets if one.split),
    )


def _folders_of(year: str) -> list[str]:
    return [f"{name}{year}" for name in SPLIT_OF]


def _sets(captions: Path) -> list[_Set]:
    """The sets of the file's year that lie beside it; a file of another name is one without a split."""
    match = _CAPTIONS.fullmatch(captions.name)
    if match is None:
        return [_Set(captions, "", None)]
    beside = {name: captions.with_name(f"captions_{name}{match[2]}.json") for name in SPLIT_OF}
    return [_Set(file, f"{name}{match[2]}", SPLIT_OF[name]) for name, file in beside.items() if file.is_file()]


def _tell_left_out(sets: Sequence[_Set]) -> None:
    for one in sets:
        events.warn(f"{one.captions}: left out, for there is no folder {one.folder} with its images")


def _described(one: _Set, prefix: str) -> list[Described]:
    """The images of a captions file with what is said of them, in the order in which the file first names them."""
    images: dict[str, Described] = {}
    named: set[str] = set()
    for entry in array_entries(one.captions, ("images", "annotations")):
        if entry.array == "images":
            image_id = entry.identity("id")
            if image_id in named:
                raise DataError(f"{one.captions}, {entry.place}: a second image with the id {image_id}.")
            named.add(image_id)
            image = images.setdefault(image_id, Described("", image_id, split=one.split))
            image.name = prefix + entry.text("file_name")
            continue
        image_id, place = entry.identity("image_id"), f"{one.captions.name}, {entry.place}"
        line = CaptionLine(entry.identity("id"), entry.text("caption"), place)
        images.setdefault(image_id, Described("", image_id, split=one.split)).captions.append(line)
    for image_id, image in images.items():
        if image_id not in named:  # captions of an image that the file does not list
            image.name, image.split = f"image {image_id}", None
    return list(images.values())
