"""`captioncrafter caption`: images in, one caption each out."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from captioncrafter import events, storage
from captioncrafter.errors import InputError, counted
from captioncrafter.generation.bulk import (
    BulkResult,
    ImageFile,
    caption_files,
    find_images,
    prediction_line,
)
from captioncrafter.generation.captioner import Captioner
from captioncrafter.generation.ledger import finished, write_ledger


def caption(
    given: Sequence[str],
    load: Callable[[], Captioner],
    describe: Callable[[], dict[str, Any]],
    *,
    out: Path | None = None,
    sidecar: bool = False,
) -> BulkResult:
    """Captions every image that `given` names, to stdout, into `out` (JSON lines) or beside the images.

    What `out` or a sidecar already holds is not done again, and a line says how much that is. The model is loaded only
    once there is work for it. `describe` tells what the captions come of (`Origin.describe`), which is kept beside
    `out`. Raises `InputError` when two images would share a sidecar, or `out` holds captions of something else.
    """
    if out is not None and sidecar:
        raise InputError("--out and --sidecar exclude each other: captions go into one file or beside the images.")
    images = find_images(given)
    if sidecar:
        _refuse_shared_sidecars(images)
    # A pipe or /dev/null keeps no captions, so there is nothing to go on with.
    kept = out if out is not None and (out.is_file() or out.is_dir() or not out.exists()) else None
    origin = describe() if kept is not None else {}
    already = _already(images, kept, origin, sidecar=sidecar)
    done = sum(image.image_id in already for image in images)
    if done:
        events.say(
            f"{done} of {counted(len(images), 'image')} {'has' if done == 1 else 'have'} a caption in "
            f"{out or 'their sidecars'} already: passed over"
        )
    if done == len(images):
        return BulkResult(already=len(images))
    captioner = load()
    if kept is not None:
        write_ledger(kept, origin, images, already)
    with ExitStack() as open_files:
        write = _writer(out, open_files, sidecar=sidecar)
        return caption_files(captioner, images, write, already=already)


def _refuse_shared_sidecars(images: Sequence[ImageFile]) -> None:
    owners: dict[Path, ImageFile] = {}
    for image in images:
        other = owners.setdefault(_sidecar_of(image), image)
        if other is not image:
            raise InputError(
                f"{other.path} and {image.path} would share the sidecar {_sidecar_of(image).name}. Rename one of them, "
                "or write all captions into one file with --out."
            )


def _already(images: Sequence[ImageFile], out: Path | None, origin: dict[str, Any], *, sidecar: bool) -> frozenset[str]:
    if sidecar:
        return frozenset(image.image_id for image in images if _sidecar_of(image).is_file())
    return finished(out, origin, images) if out is not None else frozenset()


def _writer(out: Path | None, open_files: ExitStack, *, sidecar: bool) -> Callable[[ImageFile, str], None]:
    if sidecar:
        return lambda image, caption: storage.write_text(_sidecar_of(image), caption + "\n")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    stream = sys.stdout if out is None else open_files.enter_context(out.open("a", encoding="utf-8"))

    def write(image: ImageFile, caption: str) -> None:
        stream.write(prediction_line(image.image_id, caption))
        stream.flush()

    return write


def _sidecar_of(image: ImageFile) -> Path:
    return image.path.with_suffix(".txt")
