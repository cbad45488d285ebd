"""Predictions and references as files: JSON lines, COCO's JSON, or the captions of a dataset folder.

Image ids are text here; COCO's numbers become their digits.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

from captioncrafter import storage
from captioncrafter.data.dataset import load_dataset_folder
from captioncrafter.data.splits import SPLITS
from captioncrafter.errors import DataError, counted

_NAMED_AT_MOST = 5


def read_predictions(path: Path) -> dict[str, str]:
    """The caption of each image: JSON lines `{"image_id": …, "caption": …}`, or COCO results (a list of those).

    Raises `DataError` naming the place of a row that is neither, and the images that have two captions.
    """
    found: dict[str, str] = {}
    twice: dict[str, None] = {}
    for place, row in _rows(path):
        image, caption = _image_id(row, path, place), row.get("caption")
        if not isinstance(caption, str):
            raise DataError(f'{path}, {place}: expected {{"image_id": …, "caption": "…"}}, found {shortened(row)}.')
        refuse_half_characters(caption, path, place)
        if image in found:
            twice[image] = None
        found[image] = caption
    if twice:
        raise DataError(
            f"{path}: {counted(len(twice), 'image has', 'images have')} two predictions or more ({named(twice)}). Keep "
            "one of each image."
        )
    if not found:
        raise DataError(f"{path}: holds no predictions.")
    return found


def read_references(path: Path, split: str | None = None) -> dict[str, list[str]]:
    """The captions of each image: JSON lines `{"image_id": …, "captions": […]}`, COCO annotations, or a dataset folder.

    Rows with one `caption` each, as COCO's annotations are, gather by image. Of a dataset folder the `split` is read,
    by default test where there is one, else validation. Raises `DataError` naming the place of a row that is none of
    these, the images that have two rows of `captions`, and annotation ids that stand twice.
    """
    if path.is_dir():
        _, rows = dataset_split(path, split)
        columns = rows.select_columns(["image_id", "captions"])
        return {row["image_id"]: list(row["captions"]) for row in columns}  # pyright: ignore[reportArgumentType, reportCallIssue]
    if split is not None:
        raise DataError(f"{path}: --split chooses a split of a dataset folder; a file has none. Leave it out.")
    found: dict[str, list[str]] = {}
    twice: dict[str, None] = {}
    annotations: set[str] = set()
    for place, row in _rows(path):
        image = _image_id(row, path, place)
        if image in found and "captions" in row:
            twice[image] = None
        if "captions" not in row and "id" in row:
            _refuse_again(row["id"], annotations, path, place)
        found.setdefault(image, []).extend(_captions(row, path, place))
    if twice:
        raise DataError(
            f"{path}: {counted(len(twice), 'image has', 'images have')} two rows or more ({named(twice)}). Give each "
            "image one row."
        )
    if not found:
        raise DataError(f"{path}: holds no references.")
    return found


def dataset_split(path: Path, split: str | None = None) -> tuple[str, datasets.Dataset]:
    """The `split` of a dataset folder with its name; by default test where there is one, else validation.

    Raises `DataError` when it has no images.
    """
    splits = load_dataset_folder(path)
    name = split or next((name for name in reversed(SPLITS) if len(splits.get(name, ()))), "validation")
    if not len(splits.get(name, ())):
        there = ", ".join(f"{each} ({counted(len(rows), 'image')})" for each, rows in splits.items())
        raise DataError(f"{path}: has no images in the {name} split; it has {there}.")
    return name, splits[name]


def read_file_names(path: Path) -> dict[str, str]:
    """What COCO annotations call the file of each image; empty for every other file."""
    if path.is_dir():
        return {}
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError:
        return {}
    images = value.get("images", ()) if isinstance(value, dict) else ()
    rows = [row for row in images if isinstance(row, dict)] if isinstance(images, list) else []
    return {str(row["id"]): row["file_name"] for row in rows if "id" in row and isinstance(row.get("file_name"), str)}


def named(images: Iterable[str]) -> str:
    """Some image ids as a message names them: the first few, and a mark where there are more."""
    names = list(images)
    return ", ".join(names[:_NAMED_AT_MOST]) + (" …" if len(names) > _NAMED_AT_MOST else "")


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row with its place in words. A file that is one JSON value is COCO's; else each line is one."""
    text = _text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if isinstance(value, dict) and "annotations" in value:
        value = value["annotations"]
    if isinstance(value, list):
        for number, row in enumerate(value, start=1):
            if not isinstance(row, dict):
                raise DataError(f"{path}, entry {number}: expected a JSON object, found {shortened(row)}.")
            yield f"entry {number}", row
        return
    for number, row in storage.numbered_jsonl(path, text):
        yield f"line {number}", row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}).") from None


def _image_id(row: dict[str, Any], path: Path, place: str) -> str:
    image = row.get("image_id")
    if isinstance(image, bool) or not isinstance(image, str | int):
        raise DataError(f"{path}, {place}: no image_id in {shortened(row)}.")
    return str(image)


def _captions(row: dict[str, Any], path: Path, place: str) -> Iterable[str]:
    captions = row.get("captions", [row.get("caption")])
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise DataError(f'{path}, {place}: expected {{"image_id": …, "captions": ["…"]}}, found {shortened(row)}.')
    for text in captions:
        refuse_half_characters(text, path, place)
    return captions


def _refuse_again(annotation: Any, known: set[str], path: Path, place: str) -> None:
    if str(annotation) in known:
        raise DataError(f"{path}, {place}: a second annotation with the id {annotation}. Give each caption once.")
    known.add(str(annotation))


def refuse_half_characters(caption: str, path: Path, place: str) -> None:
    """Raises `DataError` for half an emoji, which JSON can spell (a program cut the text) and no other file takes."""
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        half = ascii(caption[error.start])
        raise DataError(f"{path}, {place}: the caption holds half a character ({half}). Take it out.") from None


def shortened(value: Any) -> str:
    """A JSON value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
