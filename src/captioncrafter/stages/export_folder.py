"""The folder that an export goes into: free or an older export's, written beside its place, marked, renamed into it."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioncrafter import __version__, runs
from captioncrafter.errors import CaptionCrafterError, InputError
from captioncrafter.model.checkpoint import Checkpoint

EXPORT = "export.json"
"""Marks a folder as an export of ours: what it holds, and size and sha256 of each of its files."""

_ROOM_BYTES = 50 * 10**6
"""What processor, configurations and card take beside the weights, at most."""


@dataclass
class Export:
    """An export being written into `folder`; `hashes` are those of its files, where they are known already."""

    folder: Path
    hashes: dict[str, str] = field(default_factory=dict)

    def files(self) -> dict[str, dict[str, Any]]:
        """Size and sha256 of each file, by name."""
        return {
            file.name: {"bytes": file.stat().st_size, "sha256": self.hashes.get(file.name) or sha256_of(file)}
            for file in sorted(self.folder.iterdir())
        }


def refuse_occupied(to: Path, *, overwrite: bool) -> None:
    """Raises `InputError` unless `to` is free, or an older export with nothing else in it and `overwrite` is set."""
    runs.recover(to)
    if to.exists() and not to.is_dir():
        raise InputError(f"{to}: is a file, and an export is a folder. Choose another --to.")
    there = {str(path.relative_to(to)) for path in to.rglob("*") if not path.is_dir()} if to.is_dir() else set()
    if not there:
        return
    if EXPORT not in there:
        raise InputError(f"{to}: not empty, and not an export of CaptionCrafter. Choose another --to.")
    if not overwrite:
        raise InputError(f"{to}: an older export is there. --overwrite replaces it; or choose another --to.")
    told = runs.read_json(to / EXPORT)
    known = set(told.get("files", {})) if isinstance(told, dict) else set()
    if others := sorted(there - known - {EXPORT}):
        raise InputError(
            f"{to}: beside the older export lie files that are not of it, {others[0]} first, and would be lost. Move "
            "them away, or choose another --to."
        )


def refuse_full_disk(to: Path, needed: int) -> None:
    """Raises `CaptionCrafterError` when `needed` bytes of weights, and what goes with them, do not fit beside `to`."""
    there = next(above for above in to.resolve().parents if above.exists())
    free = shutil.disk_usage(there).free
    if needed + _ROOM_BYTES > free:
        raise CaptionCrafterError(
            f"{to}: the export needs about {size_in_words(needed + _ROOM_BYTES)} and the disk has "
            f"{size_in_words(free)} free. Choose a --to on another disk."
        )


@contextmanager
def written_to(to: Path, kind: str, base: Checkpoint, *, dtype: str | None = None) -> Iterator[Export]:
    """An export to write; on leaving without an error it is marked, synced and takes the place of `to`, whole."""
    with runs.replacing_folder(to) as folder:
        export = Export(folder)
        yield export
        facts = {"captioncrafter": __version__, "kind": kind, "base": public_name(base), "revision": base.revision}
        runs.write_json(folder / EXPORT, facts | {"dtype": dtype, "files": export.files()})


def public_name(base: Checkpoint) -> str:
    """The base's name without any path of this machine."""
    return base.name if base.on_hub else Path(base.name).name


def sha256_of(file: Path) -> str:
    """The hash of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_in_words(count: int) -> str:
    """Bytes as a person says them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
