"""Brings what caption files say together with the images that are there; what does not fit is kept by kind."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from captioncrafter.data.example import CaptionLine, Described, Example, SetAside, Source
from captioncrafter.data.layouts.looking import ImageFolder
from captioncrafter.data.layouts.split_lists import SplitLists
from captioncrafter.errors import DataError, counted

LEADS_OUT = "is a link to a place outside the image folder; copy the file itself there"


def by_image(lines: Iterable[tuple[str, CaptionLine]], lists: SplitLists | None) -> list[Described]:
    """The images that caption lines name, in the order of their first line, then those that only a split list names."""
    described: dict[str, Described] = {}
    split_of = lists.split_of if lists else {}
    for name, line in lines:
        image = described.setdefault(name, Described(name, image_id=name, split=split_of.get(name)))
        image.captions.append(line)
    for name, split in split_of.items():
        described.setdefault(name, Described(name, image_id=name, split=split))
    return list(described.values())


def gather(
    described: Iterable[Described],
    images: ImageFolder,
    *,
    layout: str,
    licence: str,
    read_from: tuple[Path, ...],
    splits_from: str,
) -> Source:
    """The examples that are complete: file, captions and (where the source has splits at all) a split.

    Captions lose the white space around them and nothing else. Raises `DataError` when no example is complete or two
    images share an id.
    """
    examples: list[Example] = []
    strays: dict[str, list[CaptionLine]] = {"without_image": [], "blank": []}
    names: dict[str, list[str]] = {"without_captions": [], "no_split": [], "absent": []}
    set_aside: list[SetAside] = []
    undescribed = dict.fromkeys(images.files)
    for image in described:
        undescribed.pop(image.name, None)
        strays["blank"] += [line for line in image.captions if not line.text.strip()]
        captions = tuple(line.text.strip() for line in image.captions if line.text.strip())
        if image.name in images.outside:
            set_aside.append(SetAside(image.name, LEADS_OUT))
        elif image.name not in images.files:
            strays["without_image"] += image.captions
            names["absent"] += [image.name] if image.split else []
        elif not captions:
            names["without_captions"].append(image.name)
        elif splits_from and image.split is None:
            names["no_split"].append(image.name)
        else:
            examples.append(Example(image.image_id, images.files[image.name], captions, image.split))
    _refuse_nothing(examples, images, read_from)
    _refuse_shared_ids(examples, read_from)
    return Source(
        layout=layout,
        licence=licence,
        read_from=read_from,
        image_folder=images.path,
        splits_from=splits_from,
        examples=examples,
        captions_without_image=strays["without_image"],
        blank_captions=strays["blank"],
        images_without_captions=[*names["without_captions"], *undescribed],
        images_in_no_split=names["no_split"],
        listed_images_absent=names["absent"],
        set_aside=set_aside,
    )


def _refuse_nothing(examples: list[Example], images: ImageFolder, read_from: tuple[Path, ...]) -> None:
    if examples:
        return
    files = ", ".join(path.name for path in read_from)
    raise DataError(
        f"{images.path}: none of its {counted(len(images.files), 'image')} has both a caption and a split in {files}. "
        "Check that these files belong together."
    )


def _refuse_shared_ids(examples: list[Example], read_from: tuple[Path, ...]) -> None:
    shared = [image_id for image_id, times in Counter(example.image_id for example in examples).items() if times > 1]
    if shared:
        raise DataError(
            f"{read_from[0]}: {counted(len(shared), 'image id stands', 'image ids stand')} for more than one image, "
            f"the first: {shared[0]}. Predictions could not be told apart; make the ids unique."
        )
