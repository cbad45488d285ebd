"""A dataset folder: its columns, ids, splits, captions and images, all that is wrong at once."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from captioncrafter.data.dataset import FEATURES, PROMPT, without_progress_bars
from captioncrafter.data.example import SPLITS
from captioncrafter.errors import counted
from captioncrafter.model.checkpoint import IMAGE_TOKEN
from captioncrafter.stages.ailments.captions import (
    Captioned,
    Length,
    Splits,
    default_limit,
    examine_captions,
    listed,
    words,
)
from captioncrafter.stages.ailments.finding import BROKEN, Record
from captioncrafter.stages.ailments.pictures import Stored, examine_pictures

_AGAIN = "Prepare it again: captioncrafter prepare SOURCE --out FOLDER --overwrite"
_OTHER_NAMES = {"dev": "validation", "val": "validation", "valid": "validation", "restval": "train"}


def examine_dataset(
    record: Record, folder: Path, *, decode: bool, length: Length = words, limit: int | None = None
) -> Splits:
    """All about the dataset in `folder`; with `decode`, every image is decoded. Gives its captions by split."""
    splits = _loaded(record, folder)
    if not splits:
        return {}
    record.facts["splits"] = {name: len(split) for name, split in splits.items()}
    _examine_splits(record, folder, splits)
    usable = {name: split for name, split in splits.items() if _has_columns(record, folder, name, split)}
    captioned = {name: list(_captioned(split)) for name, split in usable.items()}
    record.facts["captions"] = {name: sum(len(one.texts) for one in images) for name, images in captioned.items()}
    prompted = {name for name, split in usable.items() if PROMPT in split.column_names}
    for name, images in captioned.items():
        _examine_ids(record, folder, name, images, prompted=name in prompted)
        if name in prompted:
            _examine_prompts(record, folder, name, usable[name])
    examine_captions(record, folder, captioned, length=length, limit=limit or default_limit())
    total = sum(map(len, captioned.values()))
    images = (stored for name, split in usable.items() for stored in _stored(name, split, captioned[name]))
    examine_pictures(record, folder, images, total, decode=decode)
    return captioned


def _loaded(record: Record, folder: Path) -> dict[str, datasets.Dataset]:
    if not (folder / "dataset_dict.json").is_file():
        one = (folder / "state.json").is_file()
        record.error(
            "no-splits" if one else "no-dataset",
            folder,
            "one split of a dataset, where a folder with several belongs" if one else "no dataset_dict.json",
            "Put it into a datasets.DatasetDict with train and validation, and save_to_disk that." if one else _AGAIN,
        )
        if not one:
            return {}
    try:
        with without_progress_bars():
            found: Any = datasets.load_from_disk(str(folder))
    except BROKEN as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        record.error("damaged-dataset", folder, f"cannot be loaded ({first})", _AGAIN)
        return {}
    return {str(name): split for name, split in found.items()} if hasattr(found, "items") else {"train": found}


def _examine_splits(record: Record, folder: Path, splits: dict[str, datasets.Dataset]) -> None:
    for name in splits:
        if name not in SPLITS:
            meant = _OTHER_NAMES.get(name)
            record.warning(
                "other-split",
                folder,
                f'a split called "{name}" is not read; splits here are {", ".join(SPLITS)}',
                f'Rename it to "{meant}".' if meant else "Rename it, or leave it.",
            )
    lacking = [name for name in ("train", "validation") if not len(splits.get(name, ()))]
    if lacking == ["validation"] and not len(splits.get("test", ())):
        record.error(
            "train-only",
            folder,
            "a training split and no other, as some copies on the hub have it: whatever is scored was learned from",
            "Split it by the dataset's published lists (put them beside the source and prepare it), never at random "
            "over caption rows.",
        )
    elif lacking:
        record.error(
            "no-split",
            folder,
            f"no images in {' and '.join(lacking)}; training needs some to learn from and others to choose by",
            _AGAIN,
        )
    elif not len(splits.get("test", ())):
        record.note("no-test", folder, "no test split: the final scores would be of images that chose the adapter")


def _has_columns(record: Record, folder: Path, name: str, split: datasets.Dataset) -> bool:
    missing = [column for column in FEATURES if column not in split.column_names]
    if missing:
        record.error(
            "columns",
            folder,
            f"split {name} has no column {' nor '.join(missing)}; it has {', '.join(split.column_names)}",
            "Rename its columns (image, image_id, captions: a list of strings), or prepare it from its source.",
        )
        return False
    try:
        captions: Any = split.features["captions"]
        fits = isinstance(split.features["image"], datasets.Image) and captions.feature.dtype.endswith("string")
    except AttributeError:
        fits = False
    if not fits:
        kinds = "; ".join(f"{column} is {split.features[column]}" for column in FEATURES)
        record.error(
            "columns", folder, f"split {name}: {kinds}", "image has to be an Image, captions a list of strings."
        )
    return fits


def _captioned(split: datasets.Dataset) -> Iterator[Captioned]:
    tables: Any = split.with_format("arrow").select_columns(["image_id", "captions"]).iter(batch_size=1000)
    for table in tables:
        for row in table.to_pylist():
            image_id = row["image_id"]
            yield Captioned(None if image_id is None else str(image_id), row["captions"])


def _examine_ids(record: Record, folder: Path, name: str, images: list[Captioned], *, prompted: bool) -> None:
    lacking = sum(image.image_id is None for image in images)
    if lacking:
        record.error(
            "no-id",
            folder,
            f"split {name}: {counted(lacking, 'row has', 'rows have')} no image_id",
            "Give each one of its own.",
        )
    counts = Counter(image.image_id for image in images if image.image_id is not None)
    twice = [image for image, count in counts.items() if count > 1]
    if twice:
        more = " An image with several prompts needs one for each." if prompted else ""
        record.error(
            "id-twice",
            folder,
            f"split {name}: {counted(len(twice), 'id stands', 'ids stand')} for two rows or more: predictions could "
            "not be told apart",
            f"Make the ids unique.{more}",
            details=listed(twice),
        )
    leaving = [image for image in counts if {"", ".."} & set(image.replace("\\", "/").split("/")[:-1])]
    if leaving:
        record.warning(
            "id-leads-out",
            folder,
            f"split {name}: {counted(len(leaving), 'id is a path that leads', 'ids are paths that lead')} out of any "
            "folder",
            "Rename them: a program that makes file names of ids would write elsewhere.",
            details=listed(leaving),
        )


def _examine_prompts(record: Record, folder: Path, name: str, split: datasets.Dataset) -> None:
    held = [str(prompt) for prompt in split[PROMPT] if IMAGE_TOKEN in str(prompt)]
    if held:
        record.error(
            "positions",
            folder,
            f"split {name}: {counted(len(held), 'prompt holds', 'prompts hold')} {IMAGE_TOKEN}: the processor writes "
            "those positions itself, and more of them than queries is no image",
            f"Take {IMAGE_TOKEN} out of the prompts.",
            details=listed(held),
        )


def _stored(name: str, split: datasets.Dataset, captioned: list[Captioned]) -> Iterator[Stored]:
    column = split.with_format("arrow").select_columns(["image"])
    for row, image in enumerate(captioned):
        yield Stored(name, image.name, len(image.texts), partial(_bytes_at, column, row))


def _bytes_at(column: Any, row: int) -> bytes | None:
    return column[row]["image"][0].as_py()["bytes"]
