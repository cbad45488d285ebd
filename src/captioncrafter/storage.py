"""How files get onto disk, whole or not at all, and where they lie; reading JSON, by name and line where it fails.

Every file is written under a temporary name in its own folder, synced, then renamed, so that a reader (or a kill at
any moment) finds the old file or the new one and never a part.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captioncrafter.errors import DataError

_ASIDE = re.compile(r"\.(.+)\.(\d{1,9})\.(?:tmp|old)", re.DOTALL)
"""Names that `replacing` and `replacing_folder` give: of what, and by which process."""


def cache_folder() -> Path:
    """Where features are kept between runs: `CAPTIONCRAFTER_CACHE`, else `~/.cache/captioncrafter`."""
    named = os.environ.get("CAPTIONCRAFTER_CACHE")
    return user_path(named) if named else Path.home() / ".cache" / "captioncrafter"


def user_path(text: str) -> Path:
    """The path that a person wrote, `~` at its start read as their home; one of an unknown user stays as it is."""
    # Path.expanduser raises RuntimeError for a user that does not exist.
    return Path(os.path.expanduser(text))  # noqa: PTH111


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file name beside `path`; on leaving without an error it is synced and takes `path`'s place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; on leaving without an error its files are synced and it takes `path`'s place.

    An older folder at `path` is renamed aside first and removed last: whatever happens, one whole folder is on disk,
    at `path` or, after a kill between the two renames, where `recover` finds it; that is called here first.
    A link stays one: the folder it leads to is replaced, on that folder's disk.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _sync(written)
        _take_the_place_of(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_the_place_of(path: Path, temporary: Path) -> None:
    """Puts `temporary` at `path`, and what was there, if all goes well, at `temporary`; else back to `path`."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        if path.exists():
            path.replace(old)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        # Never removed under its own name: a kill amid that would leave a part that `recover` takes for the whole.
        if old.exists():
            old.replace(temporary if path.exists() else path)


def recover(path: Path) -> None:
    """Mends what a kill during `replacing_folder(path)` left: a missing folder comes back, leftovers are removed.

    What belongs to a process that still runs on this machine is left alone.
    """
    if not path.parent.is_dir():
        return
    path = path.resolve()
    for left in _left_behind(path):
        if left.suffix == ".old" and not path.exists():
            left.replace(path)
            _sync(path.parent)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def recover_all(folder: Path) -> None:
    """Mends what a kill left in `folder` of any files and folders that were being replaced, as `recover` does."""
    if folder.is_dir():
        for name in {match[1] for entry in folder.iterdir() if (match := _ASIDE.fullmatch(entry.name))}:
            recover(folder / name)


def _left_behind(path: Path) -> list[Path]:
    found = [(entry, _ASIDE.fullmatch(entry.name)) for entry in path.parent.iterdir()]
    return [entry for entry, match in found if match and match[1] == path.name and not _in_use(entry, int(match[2]))]


def _in_use(folder: Path, process: int) -> bool:
    # Our own id on a folder put aside is an earlier process's (in a container every start may get the same one):
    # we hold none between two calls.
    if process == os.getpid():
        return folder.suffix == ".tmp"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex; a large file is never in memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The JSON value in `path`; raises `DataError` naming the file and line when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}).") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of `path`, one a line; raises `DataError` naming the first line that is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}).") from None
    return [row for _, row in numbered_jsonl(path, text)]


def numbered_jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects in `text` with their line numbers from 1; `path` names it in a `DataError`.

    Only line feeds end a line: a caption may hold U+2028, at which `str.splitlines` would break.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error}).") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}.")
        yield number, row


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
