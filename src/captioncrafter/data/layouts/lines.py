"""Text files as lines, from strangers: UTF-8 or refused, whatever ends the lines."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from captioncrafter.errors import DataError


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, each with its number counted from 1, without its line end or a byte order mark.

    Only line feeds end a line: a caption may hold U+2028 or another character that `str.splitlines` would break at.
    Raises `DataError` naming the file and line for text that is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = _decode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, path, number)
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 text (byte 0x{error.object[error.start]:02x}). Save the file as UTF-8; "
            f"from Latin-1: iconv -f latin1 -t utf-8 {path.name} > {path.stem}.utf8{path.suffix}"
        ) from None
