"""The folder that an export goes into: free or an older export's, written beside its place, marked, renamed into it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioncrafter import __version__, storage
from captioncrafter.errors import InputError
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.report.card_metadata import public_name

EXPORT = "export.json"
"""Marks a folder as an export of ours: what it holds, and size and sha256 of each of its files."""

BESIDE_WEIGHTS_BYTES = 50 * 10**6
"""What processor, configurations and card take beside the weights, at most."""


@dataclass
class Export:
    """An export being written into `folder`; `hashes` are those of its files, where they are known already."""

    folder: Path
    hashes: dict[str, str] = field(default_factory=dict)

    def files(self) -> dict[str, dict[str, Any]]:
        """Size and sha256 of each file, by name."""
        return {
            file.name: {"bytes": file.stat().st_size, "sha256": self.hashes.get(file.name) or storage.sha256_of(file)}
            for file in sorted(self.folder.iterdir())
        }


def refuse_occupied(to: Path, *, overwrite: bool) -> None:
    """Raises `InputError` unless `to` is free, or an older export with nothing else in it and `overwrite` is set."""
    storage.recover(to)
    if to.exists() and not to.is_dir():
        raise InputError(f"{to}: is a file, and an export is a folder. Choose another --to.")
    there = {str(path.relative_to(to)) for path in to.rglob("*") if not path.is_dir()} if to.is_dir() else set()
    if not there:
        return
    if EXPORT not in there:
        raise InputError(f"{to}: not empty, and not an export of CaptionCrafter. Choose another --to.")
    if not overwrite:
        raise InputError(f"{to}: an older export is there. --overwrite replaces it; or choose another --to.")
    told = storage.read_json(to / EXPORT)
    known = set(told.get("files", {})) if isinstance(told, dict) else set()
    if others := sorted(there - known - {EXPORT}):
        raise InputError(
            f"{to}: beside the older export lie files that are not of it, {others[0]} first, and would be lost. Move "
            "them away, or choose another --to."
        )


@contextmanager
def written_to(to: Path, kind: str, base: Checkpoint, *, dtype: str | None = None) -> Iterator[Export]:
    """An export to write; on leaving without an error it is marked, synced and takes the place of `to`, whole."""
    with storage.replacing_folder(to) as folder:
        export = Export(folder)
        yield export
        facts = {"captioncrafter": __version__, "kind": kind, "base": public_name(base), "revision": base.revision}
        storage.write_json(folder / EXPORT, facts | {"dtype": dtype, "files": export.files()})
