"""Folders as tests make and list them."""

from pathlib import Path


def folder_holding(path: Path, name: str) -> Path:
    """A new folder with one empty file."""
    path.mkdir(parents=True)
    (path / name).touch()
    return path


def names_in(folder: Path) -> list[str]:
    """Of all entries, sorted."""
    return sorted(entry.name for entry in folder.iterdir())
