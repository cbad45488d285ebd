"""Flickr8k's split lists: three text files that name the images of each split, one a line."""

from dataclasses import dataclass
from pathlib import Path

from captioncrafter.data.layouts.lines import numbered_lines
from captioncrafter.data.layouts.looking import find_file
from captioncrafter.errors import DataError

LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


@dataclass(frozen=True)
class SplitLists:
    """The split of each listed image, and the files that say so."""

    split_of: dict[str, str]
    files: tuple[Path, ...]

    @property
    def names(self) -> str:
        """The files as a person names them."""
        return ", ".join(file.name for file in self.files)


def find_split_lists(root: Path) -> SplitLists | None:
    """The published lists that lie in `root`, None when there is none.

    Raises `DataError` for an image that two splits claim: its captions would be learned and then tested.
    """
    found = {split: find_file(root, [name]) for split, name in LISTS.items()}
    split_of: dict[str, str] = {}
    for split, path in found.items():
        for number, line in numbered_lines(path) if path else ():
            name = line.strip()
            if split_of.setdefault(name, split) != split:
                other = found[split_of[name]]
                raise DataError(
                    f"{path}, line {number}: {name} is also in {other.name if other else split_of[name]}. An image "
                    "belongs to one split; delete it from one of the two lists."
                )
    files = tuple(path for path in found.values() if path)
    return SplitLists(split_of, files) if files else None
