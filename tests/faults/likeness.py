"""Whether two runs came to the same, bit for bit: every file but times."""

import hashlib
from pathlib import Path
from typing import Any

from captioncrafter import runs

_OF_TIME = {"captions_per_s"}


def differences(run: Path, whole: Path) -> list[str]:
    """What in `run` is not as in `whole`: weights, optimizer state, progress, log, adapter, manifest; leftovers.

    Names and places of the runs themselves are in none of these.
    """
    mine, theirs = _content(run), _content(whole)
    found = [f"{name}: missing" for name in theirs if name not in mine]
    found += [f"{name}: only here" for name in mine if name not in theirs]
    return found + [f"{name}: differs" for name in theirs if name in mine and mine[name] != theirs[name]]


def left_over(run: Path) -> list[Path]:
    """Temporary files and folders under `run`."""
    return [path for path in run.rglob("*") if path.name.endswith((".tmp", ".old"))]


def _content(run: Path) -> dict[str, Any]:
    files = sorted(path for path in run.rglob("*") if path.is_file())
    return {str(file.relative_to(run)): _meaning(file) for file in files}


def _meaning(file: Path) -> Any:
    if file.name == runs.LOG:
        return [
            {key: value for key, value in row.items() if key not in _OF_TIME} for row in runs.Run(file.parent).log()
        ]
    if file.name == "adapter_config.json":
        # PEFT writes a set as a list, in whatever order it comes.
        return sorted(file.read_bytes())
    return hashlib.sha256(file.read_bytes()).hexdigest()
