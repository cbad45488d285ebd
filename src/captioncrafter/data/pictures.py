"""The images that captions are about, by id: of a dataset split, or of a folder of files. Read only when asked for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from captioncrafter.data.caption_files import dataset_split, named, read_file_names
from captioncrafter.data.images import SUFFIXES, decode_image, image_hash, read_image_file
from captioncrafter.data.splits import CaptionedImage, CaptionedImages
from captioncrafter.errors import DataError, counted


@dataclass(frozen=True)
class Picture:
    """An image: `content` gives the hash of its bytes (`data.images.image_hash`), `decode` the image as RGB."""

    content: Callable[[], str]
    decode: Callable[[], Image.Image]


def pictures_of(images: Iterable[CaptionedImage]) -> dict[str, Picture]:
    """Those of a split, by image id."""
    return {image.image_id: Picture(partial(str, image.content), image.decode) for image in images}


def pictures_given(
    image_ids: Iterable[str], references: Path, split: str | None, folder: Path | None
) -> dict[str, Picture] | None:
    """Those of the images in `folder`, else in a dataset folder of references; None where neither holds any."""
    if folder is not None:
        return pictures_in(folder, image_ids, read_file_names(references))
    return pictures_of(CaptionedImages(dataset_split(references, split)[1])) if references.is_dir() else None


def pictures_in(folder: Path, image_ids: Iterable[str], file_names: Mapping[str, str]) -> dict[str, Picture]:
    """The file of each image id in `folder`: the one that `file_names` tells, else the id, with or without its ending.

    Raises `DataError` naming the images that have no file there, or several.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images.")
    stems: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            stems.setdefault(path.stem, []).append(path)
    files = {image: _file(folder, file_names.get(image, image), stems) for image in image_ids}
    lacking = [image for image, file in files.items() if file is None]
    if lacking:
        raise DataError(
            f"{folder}: {counted(len(lacking), 'image has', 'images have')} no file there, or several "
            f"({named(lacking)}). A file is called as its image id, with or without an ending like .jpg."
        )
    return {image: Picture(partial(_hash, file), partial(decode_image, file)) for image, file in files.items() if file}


def _file(folder: Path, name: str, stems: Mapping[str, list[Path]]) -> Path | None:
    # An id is somebody's text: it must not lead out of the folder.
    inside = (folder / name).resolve()
    if inside.is_relative_to(folder.resolve()) and inside.is_file():
        return inside
    by_stem = stems.get(name, [])
    return by_stem[0] if len(by_stem) == 1 else None


def _hash(file: Path) -> str:
    return image_hash(read_image_file(file, str(file)))
