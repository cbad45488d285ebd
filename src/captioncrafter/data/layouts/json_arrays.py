"""JSON files too large to hold: the arrays of one object, entry by entry.

COCO's captions are 66 MB and Karpathy's file of it 144 MB of JSON, which Python would hold as some 2 GB at once.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from captioncrafter.data.caption_files import refuse_half_characters, shortened
from captioncrafter.errors import DataError

_CHUNK = 1 << 20
# Of what an entry may come to, in characters; Karpathy's take about a thousand.
_LONGEST = 16 << 20
_SPACE = " \t\r\n"
_BEHIND_A_VALUE = _SPACE + ",:]}"
_DECODER = json.JSONDecoder()


class Entry:
    """One object of an array with its place in words; what is missing in it or of another kind raises `DataError`."""

    def __init__(self, array: str, place: str, values: dict[str, Any], file: Path) -> None:
        self.array, self.place, self._values, self._file = array, place, values, file

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str) -> str:
        """The text that stands under `key`."""
        value = self._values.get(key)
        if not isinstance(value, str):
            raise self.unlike(f"a text called {key}")
        refuse_half_characters(value, self._file, self.place)
        return value

    def identity(self, key: str) -> str:
        """The number or text under `key`, as text."""
        value = self._values.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(key)

    def inner(self, key: str) -> "list[Entry]":
        """The objects in the array under `key`."""
        values = self._values.get(key)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.unlike(f"an array of objects called {key}")
        return [Entry(key, self.place, value, self._file) for value in values]

    def unlike(self, expected: str) -> DataError:
        """What to raise where the entry lacks what was `expected`."""
        return DataError(f"{self._file}, {self.place}: expected {expected}, found {shortened(self._values)}.")


def array_entries(path: Path, arrays: Collection[str]) -> Iterator[Entry]:
    """The objects in those of the file's arrays that are called as `arrays`, in the order in which the file has them.

    Raises `DataError` naming the place for what is not UTF-8, cut off, not JSON, or no object with such an array.
    """
    try:
        # Opened here, for the window reads on as entries are asked for.
        with path.open(encoding="utf-8-sig") as file:
            yield from _entries(_Window(file, path), path, arrays)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}). Fetch it again, or save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None


def _entries(window: "_Window", path: Path, arrays: Collection[str]) -> Iterator[Entry]:
    found: set[str] = set()
    window.take("{")
    while not window.took("}"):
        key = window.value()
        window.place = str(key)
        window.take(":")
        if window.next() != "[":
            window.value()
        elif key in arrays:
            found.add(key)
            yield from _array(window, path, key)
        else:
            for _ in _array(window, path, str(key)):
                pass
        window.took(",")
    missing = [name for name in arrays if name not in found]
    if missing:
        raise DataError(f"{path}: has no array called {' nor '.join(missing)}: not a captions file of this layout.")


def _array(window: "_Window", path: Path, key: str) -> Iterator[Entry]:
    window.take("[")
    number = 0
    while not window.took("]"):
        number += 1
        window.place = f"entry {number} of {key}"
        value = window.value()
        yield Entry(key, window.place, value if isinstance(value, dict) else {}, path)
        window.took(",")


class _Window:
    """The text of a file of which only the part being read is in memory; `place` is where that is, in words."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path, self.place = file, path, "its start"
        self._text, self._at, self._ended = "", 0, False

    def next(self) -> str:
        """The next character that is no space, still to be read; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read_on()

    def took(self, character: str) -> bool:
        """Whether that was next; it is read then."""
        is_next = self.next() == character
        self._at += is_next
        return is_next

    def take(self, character: str) -> None:
        """Reads what has to come next."""
        if not self.took(character):
            raise self._damaged(f'"{character}" was to come')

    def value(self) -> Any:
        """The whole JSON value that comes next."""
        self.next()
        while True:
            reason, place = "its end is missing", len(self._text)
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                # A number that ends where the window does may go on behind it.
                if self._ended or self._text[end : end + 1] in tuple(_BEHIND_A_VALUE):
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                reason, place = error.msg, error.pos
            if self._ended or len(self._text) - self._at > _LONGEST:
                raise self._damaged(reason, place)
            self._read_on()

    def _read_on(self) -> None:
        """As much again as is held, so that a long value is not read over and over."""
        rest = self._text[self._at :]
        more = self._file.read(max(_CHUNK, len(rest)))
        self._text, self._at, self._ended = rest + more, 0, not more

    def _damaged(self, reason: str, at: int | None = None) -> DataError:
        """`at` is where in the text it is, by default what comes next."""
        behind = self._text[self._at if at is None else at :].strip()
        cut_off = self._ended and (not behind or reason.startswith("Unterminated"))
        how = "cut off" if cut_off else "not JSON"
        return DataError(f"{self._path}: {how} at {self.place} ({reason}). Fetch it again.")
