"""Dataset folders: Arrow data sets of the Hugging Face kind with the columns image, image_id and captions.

A column `prompt` may stand beside them. Each row is then one image with one prompt, and its captions are the answers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import xxhash

from captioncrafter.data.images import image_hash
from captioncrafter.errors import DataError

FEATURES = datasets.Features(
    image=datasets.Image(), image_id=datasets.Value("string"), captions=datasets.List(datasets.Value("string"))
)
"""What each column of a dataset folder holds."""

PROMPT = "prompt"
PROMPTED_FEATURES = datasets.Features({**FEATURES, PROMPT: datasets.Value("string")})
"""The same with a prompt for each row; None stands for the recipe's prompt."""

_BATCH_IMAGES = 100


def load_dataset_folder(path: str | Path) -> dict[str, datasets.Dataset]:
    """The splits of a dataset folder by name, memory-mapped: one of ours, or any saved DatasetDict with our columns.

    Raises `DataError` when there is none, a column is missing or of another kind, an image has no captions, or an id
    is missing or stands for two rows of a split.
    """
    path = Path(path)
    splits = _load(path)
    for name, split in splits.items():
        _refuse_other_columns(path, name, split)
        _refuse_unusable_rows(path, name, split)
    return splits


def image_bytes(dataset: datasets.Dataset, index: int) -> bytes:
    """The image file of one row as it was stored, not decoded."""
    return _stored_bytes(dataset.with_format("arrow")[index]["image"][0].as_py(), f"image {index}")


def image_hashes(dataset: datasets.Dataset) -> list[str]:
    """The `image_hash` of every row, in order. Reads every image, a few at a time."""
    return [image_hash(_stored_bytes(row["image"], row["image_id"])) for row in _rows(dataset, ("image", "image_id"))]


def fingerprint(dataset: datasets.Dataset) -> str:
    """What tells one split from another: 32 hex digits of its image ids, image bytes, captions and prompts, in order.

    The same rows give the same digits wherever and in however many files they are stored. Reads every image.
    """
    digest = xxhash.xxh3_128()
    for row in _rows(dataset):
        content = image_hash(_stored_bytes(row["image"], row["image_id"]))
        for part in (row["image_id"], content, *row["captions"]):
            encoded = part.encode()
            digest.update(b"%d:%b" % (len(encoded), encoded))
        if (prompt := row.get(PROMPT)) is not None:
            digest.update(b"prompt %b" % prompt.encode())
        digest.update(b"\n")
    return digest.hexdigest()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keeps `datasets` from drawing its own bars; puts its setting back."""
    hidden_before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden_before:
            datasets.enable_progress_bars()


def _load(path: Path) -> dict[str, datasets.Dataset]:
    if not path.is_dir():
        raise DataError(f"{path}: no such dataset folder. `captioncrafter prepare SOURCE --out {path}` makes one.")
    if not (path / "dataset_dict.json").is_file():
        kind = "holds one split of a dataset" if (path / "state.json").is_file() else "not a dataset folder"
        raise DataError(
            f"{path}: {kind} (dataset_dict.json is missing). `captioncrafter prepare SOURCE --out FOLDER` makes "
            "a dataset folder; datasets.DatasetDict.save_to_disk does, too."
        )
    try:
        with without_progress_bars():
            return dict(datasets.DatasetDict.load_from_disk(str(path)))  # pyright: ignore[reportReturnType]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: the dataset in it is damaged ({error}). Prepare it again with --overwrite.") from None


def _refuse_other_columns(path: Path, name: str, split: datasets.Dataset) -> None:
    missing = [column for column in FEATURES if column not in split.column_names]
    if missing:
        raise DataError(
            f"{path}: split {name} has no column {' nor '.join(missing)}; it has {', '.join(split.column_names)}. "
            "Rename its columns, or make a dataset with `captioncrafter prepare`."
        )
    wrong = [column for column in _columns(split) if not _KINDS[column](split.features[column])]
    if wrong:
        kinds = "; ".join(f"{column} is {split.features[column]}" for column in wrong)
        prompt = ", prompt a string" if PROMPT in wrong else ""
        raise DataError(
            f"{path}: split {name}: {kinds}. Needed: image an Image, image_id a string, captions a list of strings"
            f"{prompt}."
        )


def _is_string(feature: object) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _is_string_or_none(feature: object) -> bool:
    return _is_string(feature) or feature == datasets.Value("null")


def _is_list_of_strings(feature: object) -> bool:
    return isinstance(feature, datasets.List | datasets.LargeList) and _is_string(feature.feature)


_KINDS = {
    "image": lambda feature: isinstance(feature, datasets.Image),
    "image_id": _is_string,
    "captions": _is_list_of_strings,
    PROMPT: _is_string_or_none,
}


def _refuse_unusable_rows(path: Path, name: str, split: datasets.Dataset) -> None:
    seen: set[str] = set()
    for number, row in enumerate(_rows(split, ("image_id", "captions"))):
        image, captions = row["image_id"], row["captions"]
        if image is None:
            raise DataError(f"{path}: split {name}: row {number} has no image_id. Give every image one of its own.")
        if image in seen:
            prompted = " An image with several prompts needs one for each." if PROMPT in split.column_names else ""
            raise DataError(
                f"{path}: split {name}: two images are called {image}. Predictions could not be told apart; make the "
                f"ids unique.{prompted}"
            )
        if not captions or not all(caption and caption.strip() for caption in captions):
            raise DataError(
                f"{path}: split {name}: {image} has no captions, or one that is empty. Give every image at least one."
            )
        seen.add(image)


def _columns(dataset: datasets.Dataset) -> list[str]:
    return [column for column in PROMPTED_FEATURES if column in dataset.column_names]


def _rows(dataset: datasets.Dataset, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows as they are stored, which is with undecoded images."""
    chosen = _columns(dataset) if columns is None else list(columns)
    for table in dataset.with_format("arrow").select_columns(chosen).iter(batch_size=_BATCH_IMAGES):
        yield from table.to_pylist()  # pyright: ignore[reportAttributeAccessIssue]


def _stored_bytes(stored: dict[str, object], name: str) -> bytes:
    data = stored["bytes"]
    if not isinstance(data, bytes):
        raise DataError(
            f"{name}: the dataset holds a path ({stored['path']}) instead of the image. Save it with "
            "save_to_disk, which takes the images in."
        )
    return data
