"""Captions for many image files: found, decoded beside the model, written as they come, gone on with after a stop."""

import glob
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from captioncrafter import events, storage
from captioncrafter.data.ahead import computed_ahead
from captioncrafter.data.images import SUFFIXES, decode_image
from captioncrafter.data.splits import CaptionedImage
from captioncrafter.errors import DataError, InputError
from captioncrafter.generation.captioner import Captioner


@dataclass(frozen=True)
class ImageFile:
    """One file to caption and the `image_id` its caption goes by."""

    path: Path
    image_id: str


@dataclass
class BulkResult:
    """What came of it: how many images were captioned now, were there already, and were set aside (and why)."""

    captioned: int = 0
    already: int = 0
    set_aside: list[tuple[str, str]] = field(default_factory=list)


def find_images(given: Sequence[str]) -> list[ImageFile]:
    """The image files that files, folders (searched through) and glob patterns name, each once, in order.

    An image's id is its file name; where two share one, the path as given. Raises `InputError` for a name that
    matches nothing.
    """
    if not given:
        raise InputError(
            "no images named: give files, folders or patterns, for example `captioncrafter caption photos/`."
        )
    found: dict[Path, Path] = {}
    for path in (path for word in given for path in _paths(word)):
        found.setdefault(path.absolute(), path)
    names = Counter(path.name for path in found)
    return [ImageFile(path, path.name if names[path.name] == 1 else path.as_posix()) for path in found.values()]


def _paths(word: str) -> list[Path]:
    path = storage.user_path(word)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not inside:
            raise InputError(f"{word}: no images in this folder ({', '.join(sorted(SUFFIXES))} are looked for).")
        return inside
    # pathlib's own glob wants the fixed part and the pattern apart, and cannot start at a root.
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        raise InputError(f"{word}: no such file or folder, and no file matches it as a pattern.")
    return files


def caption_files(
    captioner: Captioner,
    images: Sequence[ImageFile],
    write: Callable[[ImageFile, str], None],
    *,
    already: frozenset[str] = frozenset(),
) -> BulkResult:
    """Captions `images` batch by batch and hands each caption to `write` as soon as it is there.

    Those whose id is in `already` are passed over. An image that cannot be read is set aside, named with the reason,
    and the rest goes on. What sampling draws depends on an image's place among those captioned in this call: a stop
    and a second call may give other samples than one call does.
    """
    result = BulkResult()
    first = 0
    waiting = [image for image in images if image.image_id not in already]
    result.already = len(images) - len(waiting)
    with events.progress("captions", len(images), done=result.already) as bar:
        for batch in computed_ahead(_decode_batch, _batches(waiting, captioner.decoding.images_per_batch)):
            good = [(image, picture) for image, picture in batch if isinstance(picture, Image.Image)]
            for image, reason in batch:
                if not isinstance(reason, Image.Image):
                    result.set_aside.append((str(image.path), reason))
                    events.warn(f"{image.path}: {reason}; set aside")
            if good:
                captions = captioner.caption_batch([picture for _, picture in good], captioner.decoding, first=first)
                for (image, _), caption in zip(good, captions, strict=True):
                    write(image, caption)
            first += len(batch)
            result.captioned += len(good)
            bar.advance(len(batch))
    return result


def caption_dataset(
    captioner: Captioner, images: Iterable[CaptionedImage], *, what: str = "captions"
) -> dict[str, str]:
    """A caption for each image of a dataset by image id, in order; `what` names the progress."""
    everything = list(images)
    predictions: dict[str, str] = {}
    with events.progress(what, len(everything)) as bar:
        batches = _batches(everything, captioner.decoding.images_per_batch)
        for batch, pictures in computed_ahead(lambda batch: (batch, [one.decode() for one in batch]), batches):
            prompts = [image.prompt for image in batch]
            captions = captioner.caption_batch(pictures, captioner.decoding, first=len(predictions), prompts=prompts)
            predictions.update(zip((image.image_id for image in batch), captions, strict=True))
            bar.advance(len(batch))
    return predictions


_Item = TypeVar("_Item")


def _batches(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _decode_batch(batch: Sequence[ImageFile]) -> list[tuple[ImageFile, Image.Image | str]]:
    """Each file with its decoded image, or with the reason why it could not be."""
    return [(image, _decode(image.path)) for image in batch]


def _decode(path: Path) -> Image.Image | str:
    try:
        return decode_image(path)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")


def read_finished(out: Path) -> frozenset[str]:
    """Ids of the images that `out` already has a caption for; a last line cut short by a stop is taken off."""
    if not out.is_file():
        return frozenset()
    content = out.read_bytes()  # not as text: the cut may go through a letter
    if content and not content.endswith(b"\n"):
        with storage.replacing(out) as temporary:
            temporary.write_bytes(content[: content.rfind(b"\n") + 1])
    return frozenset(str(row["image_id"]) for row in storage.read_jsonl(out) if "image_id" in row)


def prediction_line(image_id: str, caption: str) -> str:
    """One line of a predictions file."""
    return json.dumps({"image_id": image_id, "caption": caption}, ensure_ascii=False) + "\n"
