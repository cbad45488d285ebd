"""`captioncrafter prepare`: somebody's captioned images become a dataset folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from captioncrafter import events, storage
from captioncrafter.data.audit import AUDIT, Audit, audit
from captioncrafter.data.example import SPLITS, SetAside, Source
from captioncrafter.data.inspection import Inspected, inspect
from captioncrafter.data.layouts.detect import read_source
from captioncrafter.data.seeded_split import draw_splits
from captioncrafter.data.shards import write_splits
from captioncrafter.errors import DataError, counted
from captioncrafter.stages.disk import nearest_above, refuse_full_disk

_NAMED_AT_MOST = 5
# Beside the image bytes, Arrow stores ids, captions and offsets: some hundred bytes a row.
_ROW_BYTES = 2000


def prepare(source: Path, out: Path, *, layout: str | None = None, seed: int = 0, overwrite: bool = False) -> Audit:
    """Reads the captioned images in `source`, checks every image, writes them to `out` with an `audit.json`.

    `out` appears whole or not at all. Images that cannot be used are set aside, counted and named. `seed` decides the
    splits where `source` brings none. Raises `DataError` when `source` cannot be read as captioned images, or when
    something is in `out` that may not be replaced: only an older dataset is, and only with `overwrite`. Raises
    `CaptionCrafterError` when the disk is too full.
    """
    storage.recover(out)
    _refuse_to_replace(out, overwrite=overwrite)
    found = read_source(source, layout)
    events.say(
        f"{source}: layout {found.layout}, {counted(len(found.examples), 'captioned image')} in {found.image_folder}"
    )
    images, unreadable = inspect(found.examples)
    set_aside = [*found.set_aside, *unreadable]
    _refuse_nothing(source, images, set_aside)
    needed = sum(image.size + _ROW_BYTES for image in images)
    refuse_full_disk(out, needed, what="the dataset", option="an --out")
    splits = _split(images, found, seed)
    result = audit(source, found, splits, set_aside, seed=seed)
    with storage.replacing_folder(out) as folder:
        write_splits(folder, splits)
        storage.write_json(folder / AUDIT, result.to_json())
    _tell(result, out)
    return result


def _refuse_to_replace(out: Path, *, overwrite: bool) -> None:
    """Also tries whether `out` can be made at all: better now than after all images were checked."""
    there = nearest_above(out)
    if not there.is_dir():
        raise DataError(f"{out}: cannot be made ({there} is a file). Choose another --out.")
    if not os.access(there, os.W_OK):
        raise DataError(f"{out}: cannot be written ({there} is not writable). Choose another --out.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / AUDIT).is_file():
        raise DataError(f"{out}: already there, and not a dataset that prepare made. Choose another --out.")
    if not overwrite:
        raise DataError(f"{out}: a dataset is already there. Replace it with --overwrite, or choose another --out.")


def _refuse_nothing(source: Path, images: Sequence[Inspected], set_aside: Sequence[SetAside]) -> None:
    if not images:
        reasons = "; ".join(f"{image.image}: {image.reason}" for image in set_aside[:_NAMED_AT_MOST])
        raise DataError(f"{source}: none of its {counted(len(set_aside), 'captioned image')} can be used. {reasons}.")


def _split(images: Sequence[Inspected], source: Source, seed: int) -> dict[str, list[Inspected]]:
    if not source.splits_from:
        return draw_splits(images, seed)
    return {name: [image for image in images if image.example.split == name] for name in SPLITS}


def _tell(audit: Audit, out: Path) -> None:
    for name, split in audit.splits.items():
        events.say(f"{name}: {counted(split.images, 'image')} with {counted(split.captions, 'caption')}")
    if audit.seed is None:
        events.say(f"splits from {audit.splits_from}")
    else:
        events.warn(
            f"the source has no split lists: images were divided by {audit.splits_from}. Scores on this test split do "
            "not compare with published ones"
        )
    for (one, many), names in _left_out(audit).items():
        if names:
            more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
            events.warn(f"{counted(len(names), one, many)}: {', '.join(names[:_NAMED_AT_MOST])}{more}")
    events.say(f"{out}: {counted(audit.images, 'image')}; {out / AUDIT} names everything that was left out")


def _left_out(audit: Audit) -> Mapping[tuple[str, str], Sequence[str]]:
    """What, of one and of several, with its names."""
    return {
        ("image set aside", "images set aside"): [
            f"{image.image} ({image.reason})" for image in audit.images_set_aside
        ],
        (
            "animation of which the first frame was taken",
            "animations of which the first frame was taken",
        ): audit.first_frame_only,
        ("image that stands in two splits", "images that stand in two splits"): [
            " = ".join(f"{image} ({split})" for image, split in group.items()) for group in audit.leaks
        ],
        ("caption without an image", "captions without an image"): [
            line.caption_id for line in audit.captions_without_image
        ],
        ("blank caption", "blank captions"): [line.caption_id for line in audit.blank_captions],
        ("image without captions", "images without captions"): audit.images_without_captions,
        ("image in no split list", "images in no split list"): audit.images_in_no_split,
        (
            "image that a split list names and that is not there",
            "images that a split list names and that are not there",
        ): audit.listed_images_absent,
    }
