"""Karpathy's splits, on which papers report: `dataset_coco.json`, and alike for Flickr8k and Flickr30k.

Of each image: its file, its sentences, its split. COCO's photos lie in `train2014/` and `val2014/`, those of Flickr in
one folder. Of COCO, image ids are COCO's numbers; else they are the names of the files.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from captioncrafter.data.example import CaptionLine, Described, Source
from captioncrafter.data.layouts import coco, flickr8k
from captioncrafter.data.layouts.gather import gather
from captioncrafter.data.layouts.json_arrays import Entry, array_entries
from captioncrafter.data.layouts.looking import ImageFolder, find_file, find_folders, find_images, list_together
from captioncrafter.errors import DataError, counted

NAME = "karpathy"
LOOKS_FOR = "dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json"

_LICENCES = {
    "dataset_coco.json": coco.LICENCE,
    "dataset_flickr8k.json": flickr8k.LICENCE,
    "dataset_flickr30k.json": "Flickr30k was published for non-commercial research and education. Each photo belongs "
    "to the person who put it on Flickr; the captions are by Young, Lai, Hodosh and Hockenmaier (2014).",
}
# The images of COCO's validation set that are in no held-out split: trained on, in the field, with the others.
_RESTVAL = "restval"
_SPLIT_OF = {"train": "train", _RESTVAL: "train", "val": "validation", "test": "test"}
_FOLDERS_OF_2017 = ("train2017", "val2017")


@dataclass
class _Told:
    """What the file says: its images by the folder they lie in, and how many of them are of `restval`."""

    by_folder: dict[str, list[Described]] = field(default_factory=dict)
    restval: int = 0
    of_coco: bool = False

    @property
    def images(self) -> list[Described]:
        """All of them."""
        return [image for images in self.by_folder.values() for image in images]


def knows(file: Path) -> bool:
    """Whether a file is called as one of Karpathy's."""
    return file.name.lower() in _LICENCES


def find(root: Path) -> Path | None:
    """The file of splits, None when `root` is laid out otherwise; raises `DataError` when there are several."""
    found = [file for name in _LICENCES if (file := find_file(root, [name]))]
    if len(found) > 1:
        raise DataError(
            f"{root}: holds {', '.join(file.name for file in found)}. Give the one that is meant: captioncrafter "
            f"prepare {found[0]} --out DATASET"
        )
    return found[0] if found else None


def read(root: Path, captions: Path) -> Source:
    """Every captioned photo with its split; raises `DataError` naming an entry that is written otherwise."""
    told = _told_in(captions)
    images = _images(root, captions, told)
    return gather(
        told.images,
        images,
        layout=NAME,
        licence=_LICENCES.get(captions.name.lower(), "The captions file names none that is known here."),
        read_from=(captions,),
        splits_from=captions.name
        + (f", its {counted(told.restval, 'image')} of restval in train" if told.restval else ""),
    )


def _told_in(captions: Path) -> _Told:
    told = _Told()
    for entry in array_entries(captions, ("images",)):
        split, name = entry.text("split"), entry.text("filename")
        if split not in _SPLIT_OF:
            raise entry.unlike(f"a split among {', '.join(_SPLIT_OF)}")
        told.restval += split == _RESTVAL
        told.of_coco = "cocoid" in entry
        image_id = entry.identity("cocoid") if told.of_coco else name
        image = Described(name, image_id, _lines(entry, captions), _SPLIT_OF[split])
        told.by_folder.setdefault(entry.text("filepath") if "filepath" in entry else "", []).append(image)
    return told


def _lines(entry: Entry, captions: Path) -> list[CaptionLine]:
    place = f"{captions.name}, {entry.place}"
    return [CaptionLine(line.identity("sentid"), line.text("raw"), place) for line in entry.inner("sentences")]


def _images(root: Path, captions: Path, told: _Told) -> ImageFolder:
    """The image files that are there, and what is told of them named as they are."""
    folders = find_folders(root, told.by_folder)
    if folders:
        for folder, images in told.by_folder.items():
            for image in images:
                image.name = f"{folder}/{image.name}"
        return list_together(folders)
    if told.of_coco and (folders := find_folders(root, _FOLDERS_OF_2017)):
        listing = list_together(folders)
        _name_as_in_2017(told.images, folders, listing.files)
        return listing
    return find_images(root, [image.name for image in told.images if image.captions], captions=captions.name)


def _name_as_in_2017(images: Collection[Described], folders: Collection[str], files: Mapping[str, Path]) -> None:
    """COCO published the same photos again in 2017, divided otherwise and called by their ids alone."""
    for image in images:
        names = [f"{folder}/{image.image_id.zfill(12)}.jpg" for folder in folders]
        image.name = next((name for name in names if name in files), names[0])
