"""Which layout a folder has, found by looking."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from captioncrafter import errors
from captioncrafter.data.example import Source
from captioncrafter.data.layouts import coco, flickr8k, kaggle, karpathy
from captioncrafter.errors import DataError, InputError

_SHOWN_NAMES = 12


class Layout(Protocol):
    """A module of this package: it knows one way in which captioned images lie on disk."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """What --layout calls it."""
        ...

    @property
    def LOOKS_FOR(self) -> str:  # noqa: N802
        """The mark it is known by, in words."""
        ...

    def knows(self, file: Path, /) -> bool:
        """Whether a file is one by which the layout is known."""
        ...

    def find(self, root: Path, /) -> Path | None:
        """The file by which the layout is known, None where there is none."""
        ...

    def read(self, root: Path, captions: Path, /) -> Source:
        """What `root` holds, given what `find` found."""
        ...


LAYOUTS: Sequence[Layout] = (flickr8k, kaggle, coco, karpathy)


def read_source(path: Path, layout: str | None = None) -> Source:
    """Reads the captioned images in `path`: a folder, or the captions file in it.

    Without a `layout` the folder's is found by looking. Raises `InputError` for an unknown layout, `DataError` when no
    layout fits or several do.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    wanted = [_named(layout)] if layout else LAYOUTS
    root = path.parent if path.is_file() else path
    if path.is_file():
        found = [(candidate, path) for candidate in wanted if layout or candidate.knows(path)]
    else:
        found = [(candidate, captions) for candidate in wanted if (captions := candidate.find(root))]
    if len(found) != 1:
        raise DataError(_several(path, found) if found else _none(path, root, wanted))
    candidate, captions = found[0]
    return candidate.read(root, captions)


def _named(name: str) -> Layout:
    names = [layout.NAME for layout in LAYOUTS]
    if name not in names:
        raise InputError(f'no layout is called "{name}". There are {", ".join(names)}.{errors.closest(name, names)}')
    return LAYOUTS[names.index(name)]


def _several(path: Path, found: Sequence[tuple[Layout, Path]]) -> str:
    marks = "; ".join(f"{layout.NAME} ({captions.relative_to(path)})" for layout, captions in found)
    return f"{path}: laid out in {len(found)} ways: {marks}. Choose one with --layout."


def _none(path: Path, root: Path, wanted: Sequence[Layout]) -> str:
    looked_for = "".join(f"\n  {layout.NAME}: {layout.LOOKS_FOR}" for layout in wanted)
    hint = (
        "\nIt is a dataset folder already and needs no preparing: name it as data.path in a recipe "
        "(docs/custom_tasks.md tells which columns it has to have)."
    )
    hint = hint if (root / "dataset_dict.json").is_file() else ""
    return (
        f"{path}: holds no captioned images in a known layout. Looked for{looked_for}\nFound {_contents(root)}.{hint}"
    )


def _contents(root: Path) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return (", ".join(names[:_SHOWN_NAMES]) or "nothing") + more
