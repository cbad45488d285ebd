"""Flickr8k as Kaggle hands it out: `captions.txt`, a CSV file with the header `image,caption`, beside `Images/`.

It carries no splits. The official lists are used where somebody laid them beside it.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from captioncrafter.data.example import CaptionLine, Source
from captioncrafter.data.layouts import flickr8k
from captioncrafter.data.layouts.gather import by_image, gather
from captioncrafter.data.layouts.lines import numbered_lines
from captioncrafter.data.layouts.looking import find_file, find_images
from captioncrafter.data.layouts.split_lists import find_split_lists
from captioncrafter.errors import DataError

NAME = "kaggle"
LOOKS_FOR = "captions.txt with the header image,caption"

_CAPTIONS = ("captions.txt", "captions.csv")
_HEADER = ["image", "caption"]


def knows(file: Path) -> bool:
    """Whether a file is called and begins as this layout's captions file does."""
    return file.name.lower() in _CAPTIONS and _has_header(file)


def find(root: Path) -> Path | None:
    """The captions file, None when `root` is laid out otherwise."""
    found = find_file(root, _CAPTIONS)
    return found if found and _has_header(found) else None


def read(root: Path, captions: Path) -> Source:
    """Every captioned photo, with its official split or none; raises `DataError` naming a line that has no comma."""
    lists = find_split_lists(root)
    described = by_image(_caption_lines(captions), lists)
    images = find_images(root, [image.name for image in described if image.captions], captions=captions.name)
    return gather(
        described,
        images,
        layout=NAME,
        licence=flickr8k.LICENCE,
        read_from=(captions, *(lists.files if lists else ())),
        splits_from=lists.names if lists else "",
    )


def _has_header(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(200).decode("utf-8-sig", errors="replace")
    return [word.strip().strip('"').lower() for word in first.split(",")] == _HEADER


def _caption_lines(path: Path) -> Iterator[tuple[str, CaptionLine]]:
    captions_of: Counter[str] = Counter()
    for number, line in numbered_lines(path):
        if number == 1 and _has_header(path):
            continue
        name, caption = _row(line)
        if caption is None:
            raise DataError(f"{path}, line {number}: expected image,caption, found {line[:60]!r}.")
        yield name, CaptionLine(f"{name}#{captions_of[name]}", caption, f"{path.name}, line {number}")
        captions_of[name] += 1


def _row(line: str) -> tuple[str, str | None]:
    """The image and the caption of one line, whether or not its writer put captions with commas into quotes.

    Each line is read by itself, so that an opening quote that nobody closed cannot swallow the captions after it.
    """
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error:
        fields = []
    if len(fields) == 2:
        return fields[0].strip(), fields[1]
    name, comma, caption = line.partition(",")
    return name.strip(), caption if comma else None
