"""The pictures in a run folder that are no part of its data, with their captions: as a page shows them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioncrafter import events, runs, storage
from captioncrafter.data.images import copyright_notice, decode_image
from captioncrafter.errors import DataError, ImageError
from captioncrafter.report.content import Picture
from captioncrafter.report.thumbnails import thumbnail


def other_pictures(run: runs.Run, names: dict[str, str]) -> list[Picture]:
    """Those that the run's `pictures/captions.jsonl` tells of; `names` says what the page calls `tuned` and `base`.

    One that cannot be read is left out, and a line says so. Raises `DataError` naming a row that tells of none.
    """
    folder = run.path / runs.PICTURES
    return [
        Picture(file.name, small, {names[who]: text for who, text in said.items()}, copyright_notice(file))
        for file, said in _told(folder, names)
        if (small := _thumbnail(file)) is not None
    ]


def _told(folder: Path, names: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    captions = folder / runs.PICTURE_CAPTIONS
    rows = storage.read_jsonl(captions) if captions.is_file() else []
    for number, row in enumerate(rows, start=1):
        said = {who: row[who] for who in names if who in row}
        if not (_is_text(row.get("image")) and said and all(map(_is_text, said.values()))):
            raise DataError(
                f"{captions}, row {number}: expected a file's name as image, and a caption as tuned or as base. "
                "Remove the file: the page can do without it."
            )
        yield folder / Path(row["image"]).name, said


def _is_text(value: Any) -> bool:
    """Whether it is text that can stand in a file: no half of a character, no NUL."""
    return isinstance(value, str) and "\0" not in value and value.encode("utf-8", "ignore").decode("utf-8") == value


def _thumbnail(file: Path) -> bytes | None:
    try:
        return thumbnail(decode_image(file))
    except ImageError as error:
        events.warn(f"the page is without a picture: {error}")
        return None
