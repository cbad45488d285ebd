"""Holds weights on this disk against the hashes that the hub's client noted when it fetched them.

The client itself compares sizes only (huggingface_hub 2.4, over plain HTTP). Each file is read once: a file whose size
and time have not changed since is taken as it was.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from captioncrafter import events, storage
from captioncrafter.errors import CheckpointError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORTH_A_LINE_BYTES = 10**9


def check_hashes(files: Iterable[Path], name: str) -> None:
    """Raises `CheckpointError` naming the first of `files` whose bytes are not those that the hub promised.

    Files with no promise, such as those of a folder that somebody copied, are left alone. Under several processes the
    first on each machine does it.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    promised = {file: sha256 for file in files if (sha256 := promised_hash(file)) is not None}
    known = _Known.read()
    unknown = [file for file in promised if not known.holds(file, promised[file])]
    size = sum(file.stat().st_size for file in unknown)
    if size > _WORTH_A_LINE_BYTES:
        events.say(f"{name}: holding {size / 1e9:.1f} GB of weights against the hub's hashes, this once")
    for file in unknown:
        found = storage.sha256_of(file)
        if found != promised[file]:
            raise CheckpointError(
                f"{file}: not what the hub has: its bytes hash to {found[:12]}… in place of {promised[file][:12]}…. It "
                f"was altered on the way or on this disk. Delete {file.resolve()} and run the command again with a "
                "network: it is fetched anew."
            )
        known.add(file, found)
    if unknown:
        known.write()


def promised_hash(file: Path) -> str | None:
    """The sha256 that the hub gave for `file`, None where nobody noted one.

    A file of the hub cache links to a blob that is called by its hash; `hf download --local-dir` writes the hash into
    `.cache/huggingface/download/` in the folder (commit, hash and time, a line each).
    """
    if file.is_symlink():
        blob = file.readlink().name
        return blob if _SHA256.fullmatch(blob) else None
    note = file.parent / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
    if not note.is_file():
        return None
    lines = note.read_text(encoding="utf-8").split("\n")
    return lines[1] if len(lines) > 1 and _SHA256.fullmatch(lines[1]) else None


class _Known:
    """What was found whole before, by path: hash, size and time of last change, kept in a file of our cache."""

    def __init__(self, entries: dict[str, list[str | int]]) -> None:
        self._entries = entries

    @classmethod
    def read(cls) -> "_Known":
        """What the file holds; nothing where there is none, or a damaged one: then all is read again."""
        try:
            entries = json.loads(cls._file().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            entries = {}
        return cls(entries if isinstance(entries, dict) else {})

    @staticmethod
    def _file() -> Path:
        return storage.cache_folder() / "whole_weights.json"

    def holds(self, file: Path, sha256: str) -> bool:
        return self._entries.get(str(file.resolve())) == self._facts(file, sha256)

    def add(self, file: Path, sha256: str) -> None:
        self._entries[str(file.resolve())] = self._facts(file, sha256)

    @staticmethod
    def _facts(file: Path, sha256: str) -> list[str | int]:
        told = file.stat()
        return [sha256, told.st_size, told.st_mtime_ns]

    def write(self) -> None:
        try:
            storage.write_json(self._file(), self._entries)
        except OSError as error:
            events.warn(f"{self._file()}: cannot be written ({error}); the weights are hashed again next time.")
