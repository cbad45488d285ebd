"""Finding caption files and image folders under the names people give them."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from captioncrafter.data.images import SUFFIXES
from captioncrafter.errors import DataError, counted

# As the published archives unpack ("Flicker8k" is their spelling), and as people rename them; in lower case.
_USUAL_NAMES = frozenset(
    {
        "images",
        "flicker8k_dataset",
        "flickr8k_dataset",
        "flickr8k_images",
        "flickr8k-images",
        "flickr30k_images",
        "flickr30k-images",
        "coco",
    }
)
_DEPTH = 2


@dataclass(frozen=True)
class ImageFolder:
    """The images of one folder: `files` by name as caption files would write it, `outside` for links that lead out.

    A name in a caption file is only ever looked up in `files`, so none can reach another place on the disk.
    """

    path: Path
    files: dict[str, Path]
    outside: frozenset[str]


def find_file(root: Path, names: Collection[str]) -> Path | None:
    """The file nearest to the top of `root` that has one of `names`, whatever the case; earlier names win."""
    wanted = {name.lower(): rank for rank, name in enumerate(names)}
    for folder in folders(root):
        found = [path for path in folder.iterdir() if path.name.lower() in wanted and path.is_file()]
        if found:
            return min(found, key=lambda path: (wanted[path.name.lower()], path.name))
    return None


def find_images(root: Path, named: Collection[str], *, captions: str) -> ImageFolder:
    """The folder in or beside `root` that holds the images `named`.

    A folder of a usual name (Images, Flicker8k_Dataset, …) is taken before any other, then the one that holds the
    most of them. Raises `DataError` listing where it looked when none holds any; `captions` is the name of the file
    that names them.
    """
    usual, others = [], []
    for folder in [*folders(root), *_siblings(root)]:
        (usual if folder.name.lower() in _USUAL_NAMES else others).append(folder)
    for candidates in (usual, others):
        listings = [list_images(folder) for folder in candidates]
        held = [sum(name in listing.files or name in listing.outside for name in named) for listing in listings]
        if any(held):
            return listings[held.index(max(held))]
    looked = ", ".join(str(folder) for folder in [*usual, *others])
    raise DataError(
        f"{root}: none of the {counted(len(named), 'image')} that {captions} names was found (the first: "
        f"{next(iter(named), 'none')}). Looked in {looked}. Put them into {root / 'Images'}."
    )


def find_folders(root: Path, names: Collection[str]) -> dict[str, Path]:
    """The folders in or beside `root` that have one of `names`, the nearest of each; those that are not there lack."""
    found: dict[str, Path] = {}
    for folder in [*folders(root), *_siblings(root, names)]:
        if folder.name in names:
            found.setdefault(folder.name, folder)
    return found


def folders(root: Path) -> Iterator[Path]:
    """`root` and the folders in it, level by level, as deep as published archives nest; hidden ones are left out."""
    level = [root]
    for depth in range(_DEPTH + 1):
        yield from level
        if depth < _DEPTH:
            level = [inner for folder in level for inner in _inner_folders(folder)]


def list_images(folder: Path, *, deep: bool = False) -> ImageFolder:
    """The image files of `folder` (and of the folders in it, when `deep`), by suffix; hidden ones are left out."""
    inside = _without_links(folder)
    files, outside = {}, set()
    for path in sorted(folder.rglob("*") if deep else folder.iterdir()):
        inner = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in inner.parts):
            continue
        name = _as_text(inner)
        if path.is_symlink() and not _without_links(path).is_relative_to(inside):
            outside.add(name)
        elif path.is_file():
            files[name] = path
    return ImageFolder(folder, files, frozenset(outside))


def list_together(parts: Mapping[str, Path]) -> ImageFolder:
    """The image files of several folders as one: each is named by the key of its folder, a slash and its own name."""
    listings = {key: list_images(folder) for key, folder in parts.items()}
    return ImageFolder(
        Path(os.path.commonpath(parts.values())),
        {f"{key}/{name}": file for key, listing in listings.items() for name, file in listing.files.items()},
        frozenset(f"{key}/{name}" for key, listing in listings.items() for name in listing.outside),
    )


def _without_links(path: Path) -> Path:
    """Unlike `Path.resolve`, which raises RuntimeError for a link that leads to itself (Python 3.11 and 3.12)."""
    return Path(os.path.realpath(path))


def _as_text(name: Path) -> str:
    """A name whose bytes are not UTF-8 shows them as `\\xe9`: as Python holds it, no JSON file could name it."""
    return os.fsencode(name.as_posix()).decode("utf-8", errors="backslashreplace")


def _inner_folders(folder: Path) -> list[Path]:
    # Entries of a folder know whether they are folders: the disk need not be asked about each of 82,783 photos. What a
    # link leads to it is asked, by pathlib, which answers for one that leads to itself.
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(
        folder / entry.name
        for entry in shown
        if ((folder / entry.name).is_dir() if entry.is_symlink() else entry.is_dir())
    )


def _siblings(root: Path, names: Collection[str] = ()) -> list[Path]:
    """The archives of texts and images unpack beside each other: given the one, the other is a neighbour.

    Flickr8k_Dataset.zip, unpacked into a folder of its own name, holds Flicker8k_Dataset. Neighbours called one of
    `names` count too.
    """
    try:
        neighbours = _inner_folders(root.resolve().parent)
        beside = [one for one in neighbours if one.name.lower() in _USUAL_NAMES or one.name in names]
        return [found for folder in beside for found in (folder, *_inner_folders(folder))]
    except PermissionError:
        return []
