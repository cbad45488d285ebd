"""A captioned image on its way from somebody's folder into a dataset, and what a folder was found to hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """An image file with what people wrote about it.

    `image_id` is what predictions and references call it; `split` is None where the source has no splits of its own.
    """

    image_id: str
    file: Path
    captions: tuple[str, ...]
    split: str | None = None


@dataclass(frozen=True)
class CaptionLine:
    """A caption as its file has it; `caption_id` is what that file calls the line, `place` where the line stands."""

    caption_id: str
    text: str
    place: str


@dataclass
class Described:
    """An image as caption files and split lists speak of it, before anyone looked for its file.

    `name` is its path within the image folder, with forward slashes.
    """

    name: str
    image_id: str
    captions: list[CaptionLine] = field(default_factory=list)
    split: str | None = None


@dataclass(frozen=True)
class SetAside:
    """An image that was left out, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class Source:
    """What a folder of captioned images holds, and everything in it that does not fit together.

    `read_from` are the caption and split files; `splits_from` says in words who decided the splits, empty when nobody
    has yet.
    """

    layout: str
    licence: str
    read_from: tuple[Path, ...]
    image_folder: Path
    splits_from: str
    examples: Sequence[Example]
    captions_without_image: Sequence[CaptionLine] = ()
    blank_captions: Sequence[CaptionLine] = ()
    images_without_captions: Sequence[str] = ()
    images_in_no_split: Sequence[str] = ()
    listed_images_absent: Sequence[str] = ()
    set_aside: Sequence[SetAside] = ()
