"""The small JSON files of a patient: read without trust, changed with the old one kept beside."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioncrafter import storage
from captioncrafter.stages.ailments.finding import Record

BEFORE = ".before-doctor"
"""Ending of the copy that is kept of a file before it is changed for the first time."""


def read_object(record: Record, path: Path, *, mend: str) -> dict[str, Any] | None:
    """The JSON object in `path`; None where the file is missing, or damaged, which becomes an error."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        record.error("damaged-json", path, f"not valid JSON ({error})", mend)
        return None
    if not isinstance(value, dict):
        record.error("damaged-json", path, f"holds a {type(value).__name__} where an object belongs", mend)
        return None
    return value


def may_change(path: Path) -> bool:
    """Whether `path` is the user's own: not shared through the hub cache's links, and not the package's."""
    inside_package = Path(__file__).resolve().parents[2]
    return not path.is_symlink() and not path.resolve().is_relative_to(inside_package)


def edit(path: Path, **changes: Any) -> Callable[[], str] | None:
    """A repair that sets keys of the JSON object in `path`; None where the file may not be changed."""
    if not may_change(path):
        return None

    def repair() -> str:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        kept = keep(path)
        storage.write_json(path, values | changes)
        set_ = ", ".join(f"{key} = {json.dumps(value)}" for key, value in changes.items())
        return f"{path.name}: {set_}{kept}"

    return repair


def keep(path: Path) -> str:
    """Copies `path` aside before its first change; gives the words that say so."""
    copy = path.with_name(path.name + BEFORE)
    if not path.is_file() or copy.exists():
        return ""
    shutil.copy2(path, copy)
    return f" (the old one is {copy.name})"
