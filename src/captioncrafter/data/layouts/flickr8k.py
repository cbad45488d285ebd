"""Flickr8k as its authors published it: `Flickr8k.token.txt`, three split lists, a folder of photos.

Each caption line reads `name.jpg#k`, a tab, the caption. Flickr30k's `results_20130124.token` is written alike.
"""

from collections.abc import Iterator
from pathlib import Path

from captioncrafter.data.example import CaptionLine, Source
from captioncrafter.data.layouts.gather import by_image, gather
from captioncrafter.data.layouts.lines import numbered_lines
from captioncrafter.data.layouts.looking import find_file, find_images
from captioncrafter.data.layouts.split_lists import find_split_lists
from captioncrafter.errors import DataError

NAME = "flickr8k"
LOOKS_FOR = "Flickr8k.token.txt"
LICENCE = (
    "Flickr8k was published for non-commercial research and education. Each photo belongs to the person who put it on "
    "Flickr; the captions are by Hodosh, Young and Hockenmaier (2013)."
)

_CAPTIONS = (LOOKS_FOR, "results_20130124.token")


def knows(file: Path) -> bool:
    """Whether a file is called as this layout's captions file is."""
    return file.name.lower() in {name.lower() for name in _CAPTIONS}


def find(root: Path) -> Path | None:
    """The captions file, None when `root` is laid out otherwise."""
    return find_file(root, _CAPTIONS)


def read(root: Path, captions: Path) -> Source:
    """Every captioned photo with its official split; raises `DataError` naming a line that is written otherwise."""
    lists = find_split_lists(root)
    described = by_image(_caption_lines(captions), lists)
    images = find_images(root, [image.name for image in described if image.captions], captions=captions.name)
    return gather(
        described,
        images,
        layout=NAME,
        licence=LICENCE,
        read_from=(captions, *(lists.files if lists else ())),
        splits_from=lists.names if lists else "",
    )


def _caption_lines(path: Path) -> Iterator[tuple[str, CaptionLine]]:
    for number, line in numbered_lines(path):
        caption_id, tab, text = line.partition("\t")
        name, sign, order = caption_id.rpartition("#")
        if not (tab and sign and order.strip().isdecimal()):
            raise DataError(
                f"{path}, line {number}: expected an image name, #, a number, a tab and a caption, found {line[:60]!r}."
            )
        yield name, CaptionLine(caption_id, text, f"{path.name}, line {number}")
