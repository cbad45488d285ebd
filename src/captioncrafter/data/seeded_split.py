"""Splits for sources that bring none: by image, from a seed."""

from collections import defaultdict
from collections.abc import Iterable

import xxhash

from captioncrafter.data.inspection import Inspected

# As in Flickr8k's own lists: 1,000 validation and 1,000 test images of 8,000.
HELD_OUT_SHARE = 1 / 8


def draw_splits(images: Iterable[Inspected], seed: int) -> dict[str, list[Inspected]]:
    """The images of train, validation and test, in their given order.

    All captions of an image go with it, and so do its exact copies. Which split an image gets depends on the seed and
    its bytes, not on its name or place: an image added later moves few others.
    """
    copies: dict[str, list[Inspected]] = defaultdict(list)
    images = list(images)
    for image in images:
        copies[image.content].append(image)
    drawn = sorted(copies, key=lambda content: xxhash.xxh3_128_hexdigest(f"{seed} {content}".encode()))
    held_out = _held_out(len(drawn))
    split_of = dict.fromkeys(drawn, "train")
    split_of.update(dict.fromkeys(drawn[:held_out], "validation"))
    split_of.update(dict.fromkeys(drawn[held_out : 2 * held_out], "test"))
    splits: dict[str, list[Inspected]] = {"train": [], "validation": [], "test": []}
    for image in images:
        splits[split_of[image.content]].append(image)
    return splits


def _held_out(different_images: int) -> int:
    """Images in each held-out split: at least one, but never so that nothing is left to train on."""
    return min(max(1, round(different_images * HELD_OUT_SHARE)), (different_images - 1) // 2)
