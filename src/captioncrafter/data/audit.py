"""What went into a dataset, what did not and why: the `audit.json` beside the images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import captioncrafter
from captioncrafter import storage
from captioncrafter.data.example import SPLITS, CaptionLine, SetAside, Source
from captioncrafter.data.inspection import Inspected

AUDIT = "audit.json"


@dataclass(frozen=True)
class Range:
    """The least, the average and the most of something."""

    min: int
    mean: float
    max: int


@dataclass(frozen=True)
class SplitCounts:
    """How much a split holds; the ranges are None where it holds nothing. Words are what white space parts."""

    images: int
    captions: int
    captions_per_image: Range | None
    words_per_caption: Range | None


@dataclass(frozen=True)
class Audit:
    """Everything a reader of results has to know about the data behind them.

    `identical_images` are groups of image ids (with their splits) whose files are the same byte for byte; `leaks`
    are those of them that stand in more than one split. `seed` is None where the source brought its own splits.
    """

    captioncrafter: str
    layout: str
    licence: str
    source: str
    image_folder: str
    files: dict[str, str]
    splits_from: str
    seed: int | None
    splits: dict[str, SplitCounts]
    images_set_aside: tuple[SetAside, ...]
    first_frame_only: tuple[str, ...]
    identical_images: tuple[dict[str, str], ...]
    captions_without_image: tuple[CaptionLine, ...]
    blank_captions: tuple[CaptionLine, ...]
    images_without_captions: tuple[str, ...]
    images_in_no_split: tuple[str, ...]
    listed_images_absent: tuple[str, ...]

    @property
    def images(self) -> int:
        """Images in the dataset."""
        return sum(split.images for split in self.splits.values())

    @property
    def set_aside(self) -> int:
        """Images that are there but could not be used."""
        return len(self.images_set_aside)

    @property
    def leaks(self) -> tuple[dict[str, str], ...]:
        """Groups of identical images that stand in more than one split: learned from one, tested on the other."""
        return tuple(group for group in self.identical_images if len(set(group.values())) > 1)

    def to_json(self) -> dict[str, Any]:
        """The audit as `audit.json` holds it."""
        return asdict(self) | {"images": self.images, "leaks": self.leaks}


def audit(
    path: Path,
    source: Source,
    splits: Mapping[str, Sequence[Inspected]],
    set_aside: Sequence[SetAside],
    *,
    seed: int,
) -> Audit:
    """Counts what `splits` hold and names what was left out of `path`; `seed` counts where the source has no splits."""
    drawn = not source.splits_from
    return Audit(
        captioncrafter=captioncrafter.__version__,
        layout=source.layout,
        licence=source.licence,
        source=str(path),
        image_folder=str(source.image_folder),
        files={file.name: storage.sha256_of(file) for file in source.read_from},
        splits_from=f"seed {seed}, by image" if drawn else source.splits_from,
        seed=seed if drawn else None,
        splits={name: _counts(splits.get(name, ())) for name in SPLITS},
        images_set_aside=tuple(set_aside),
        first_frame_only=tuple(
            image.example.image_id for images in splits.values() for image in images if image.more_frames
        ),
        identical_images=_identical(splits),
        captions_without_image=tuple(source.captions_without_image),
        blank_captions=tuple(source.blank_captions),
        images_without_captions=tuple(source.images_without_captions),
        images_in_no_split=tuple(source.images_in_no_split),
        listed_images_absent=tuple(source.listed_images_absent),
    )


def _counts(images: Sequence[Inspected]) -> SplitCounts:
    captions = [caption for image in images for caption in image.example.captions]
    return SplitCounts(
        images=len(images),
        captions=len(captions),
        captions_per_image=_range(len(image.example.captions) for image in images),
        words_per_caption=_range(len(caption.split()) for caption in captions),
    )


def _range(numbers: Iterable[int]) -> Range | None:
    counted = list(numbers)
    return Range(min(counted), round(sum(counted) / len(counted), 2), max(counted)) if counted else None


def _identical(splits: Mapping[str, Sequence[Inspected]]) -> tuple[dict[str, str], ...]:
    split_of: dict[str, dict[str, str]] = defaultdict(dict)
    for name, images in splits.items():
        for image in images:
            split_of[image.content][image.example.image_id] = name
    return tuple(group for group in split_of.values() if len(group) > 1)
