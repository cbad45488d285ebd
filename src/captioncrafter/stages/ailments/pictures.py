"""The images of a dataset: the same one twice or in two splits, unreadable ones, and those that others show wrongly."""

import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from PIL import ExifTags, Image

from captioncrafter import events
from captioncrafter.data.images import as_rgb, has_more_frames, image_hash, open_image
from captioncrafter.errors import ImageError, counted
from captioncrafter.stages.ailments.captions import listed
from captioncrafter.stages.ailments.finding import BROKEN, Record

_AT_ONCE = 256
_PREPARE = "Leave them out, or put the whole files in their place, and prepare the dataset again."


@dataclass(frozen=True)
class Stored:
    """One image: where it stands, how many captions it has, and how to get its file's bytes."""

    split: str
    image_id: str
    captions: int
    read: Callable[[], bytes | None]

    @property
    def name(self) -> str:
        """What a finding calls it."""
        return f"{self.split}: {self.image_id}"


@dataclass(frozen=True)
class Look:
    """What was seen of one image; `content` is empty where it has no bytes, `reason` says why it is unreadable."""

    image: Stored
    content: str
    reason: str = ""
    turned: bool = False
    deep: bool = False
    frames: bool = False


def examine_pictures(record: Record, where: object, images: Iterable[Stored], total: int, *, decode: bool) -> None:
    """Reads every image once, on all cores; with `decode` each is decoded in full too."""
    looks = list(_looked_at(images, total, decode=decode))
    unreadable = [f"{look.image.name}: {look.reason}" for look in looks if look.reason]
    if unreadable:
        record.error(
            "unreadable-images",
            where,
            f"{len(unreadable)} of {counted(total, 'image')} cannot be read",
            _PREPARE,
            details=listed(unreadable),
        )
    _examine_copies(record, where, [look for look in looks if look.content])
    kinds = {
        "turned-images": ("turned by their EXIF orientation: upright here, lying in the stock processor", "turned"),
        "deep-images": ("16-bit grey: scaled here, all white in Pillow's convert and the stock processor", "deep"),
        "more-frames": ("animations, or of several pages: the first frame alone is seen", "frames"),
    }
    for ailment, (what, mark) in kinds.items():
        if names := [look.image.name for look in looks if getattr(look, mark)]:
            record.note(
                ailment, where, f"{counted(len(names), 'image is', 'images are')} {what}", details=listed(names)
            )


def _looked_at(images: Iterable[Stored], total: int, *, decode: bool) -> Iterator[Look]:
    remaining = iter(images)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    look = _decoded if decode else _hashed
    with (
        warnings.catch_warnings(),
        events.progress("images looked at", total) as bar,
        ThreadPoolExecutor(max_workers=cores) as pool,
    ):
        warnings.simplefilter("ignore")
        while chunk := list(islice(remaining, _AT_ONCE)):
            read = [(image, _bytes_of(image)) for image in chunk]  # Arrow's tables are read by one thread
            yield from pool.map(lambda pair: look(*pair), read)
            bar.advance(len(chunk))


def _bytes_of(image: Stored) -> bytes | str:
    """The file's bytes, or why there are none."""
    try:
        data = image.read()
    except BROKEN as error:
        return f"cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})"
    return data if data is not None else "the dataset holds a path instead of the image"


def _hashed(image: Stored, data: bytes | str) -> Look:
    return Look(image, "", data) if isinstance(data, str) else Look(image, image_hash(data))


def _decoded(image: Stored, data: bytes | str) -> Look:
    if isinstance(data, str):
        return Look(image, "", data)
    content = image_hash(data)
    try:
        opened = open_image(data, image.image_id)
        turned, deep = _is_turned(opened), opened.mode == "I" or opened.mode.startswith("I;16")
        as_rgb(opened, image.image_id)
    except ImageError as error:
        return Look(image, content, error.reason)
    return Look(image, content, turned=turned, deep=deep, frames=has_more_frames(opened))


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) not in (None, 0, 1)
    except BROKEN:
        return False


def _examine_copies(record: Record, where: object, looks: list[Look]) -> None:
    groups: dict[str, list[Stored]] = defaultdict(list)
    for look in looks:
        groups[look.content].append(look.image)
    copies = [group for group in groups.values() if len(group) > 1]
    leaks = [group for group in copies if len({image.split for image in group}) > 1]
    if leaks:
        record.error(
            "image-in-two-splits",
            where,
            f"{counted(len(leaks), 'image stands', 'images stand')} in more than one split: learned from one, tested "
            "on the other",
            "Split by image, not by caption row: `captioncrafter prepare` does; or take them out of training.",
            details=_groups(leaks),
        )
    inside = [group for group in copies if group not in leaks and len({image.image_id for image in group}) > 1]
    rows = [group for group in inside if all(image.captions == 1 for image in group)]
    if rows:
        record.warning(
            "row-a-caption",
            where,
            f"{counted(len(rows), 'image stands', 'images stand')} once for each caption: every score sees one "
            "reference where several were written, and splits over rows leak",
            "Make one row of each image, with all its captions in the list.",
            details=_groups(rows),
        )
    others = [group for group in inside if group not in rows]
    if others:
        record.note(
            "same-image",
            where,
            f"{counted(len(others), 'image stands', 'images stand')} twice in a split under other ids",
            details=_groups(others),
        )


def _groups(groups: list[list[Stored]]) -> tuple[str, ...]:
    return listed([", ".join(image.name for image in group) for group in groups])
