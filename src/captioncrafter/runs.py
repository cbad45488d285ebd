"""The run folder: what was asked, what was done and what came of it. Knows nothing of models."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioncrafter import events, storage
from captioncrafter.errors import DataError

LOG = "log.jsonl"
RECIPE = "recipe.json"
MANIFEST = "manifest.json"
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"
IMAGE_SCORES = "image_scores.jsonl"
REPORT = "report.html"
SEEDS = "seeds.json"
"""In a folder of runs that differ in their seed only: what they came to."""
BASE = "base"
"""Folder in a run for predictions and scores of the base model without the adapter."""
PICTURES = "pictures"
"""Folder in a run for pictures that are no part of its data."""
PICTURE_CAPTIONS = "captions.jsonl"
"""In it: a row for each picture with its file's name as `image`, and what `tuned`, `base` or both say of it."""


@dataclass(frozen=True)
class Run:
    """A run folder: what was asked (`recipe.json`), done (`manifest.json`, `log.jsonl`) and what came of it."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """The run in `path`, its adapter first put back where a kill left it aside.

        Raises `DataError` when the folder holds none.
        """
        folder = Path(path)
        if not (folder / RECIPE).is_file():
            raise DataError(
                f"{folder}: not a run folder ({RECIPE} is missing). "
                f"`captioncrafter train RECIPE --out {folder}` makes one."
            )
        run = cls(folder)
        storage.recover(run.adapter)
        return run

    @property
    def adapter(self) -> Path:
        """The folder of the tuned adapter, in stock PEFT layout."""
        return self.path / ADAPTER

    def drop_base(self) -> None:
        """Removes what was measured of the base: it would stand beside scores of other images."""
        shutil.rmtree(self.path / BASE, ignore_errors=True)

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as it was saved."""
        return storage.read_json(self.path / RECIPE)

    def manifest(self) -> dict[str, Any]:
        """Versions, fingerprints and items set aside; empty before the first was written."""
        path = self.path / MANIFEST
        return storage.read_json(path) if path.is_file() else {}

    def add_to_manifest(self, **entries: Any) -> None:
        """Adds or replaces entries of the manifest."""
        storage.write_json(self.path / MANIFEST, self.manifest() | entries)

    def log(self) -> list[dict[str, Any]]:
        """The rows logged so far, oldest first; a last line cut short by a kill is left out, others with a warning."""
        path = self.path / LOG
        return list(_whole_lines(path)) if path.is_file() else []

    def append_log(self, row: dict[str, Any]) -> None:
        """One more row, on disk before this returns."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_log(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrites the log with the rows that `keep` accepts: a resumed run logs the steps it repeats once."""
        storage.write_jsonl(self.path / LOG, filter(keep, self.log()))


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    *lines, last = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            events.warn(f"{path}, line {number}: damaged; left out.")
    with suppress(json.JSONDecodeError, UnicodeDecodeError):
        yield json.loads(last)
