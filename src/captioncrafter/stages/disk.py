"""The disk that a stage writes to: whether what is to be written fits."""

import shutil
from pathlib import Path

from captioncrafter.errors import CaptionCrafterError


def refuse_full_disk(path: Path, needed: int, *, what: str, option: str) -> None:
    """Raises `CaptionCrafterError` when `needed` bytes do not fit where `path` is to be, which `option` names.

    `what` is to be written, in words.
    """
    free = shutil.disk_usage(nearest_above(path)).free
    if needed > free:
        raise CaptionCrafterError(
            f"{path}: {what} needs about {size_in_words(needed)} and the disk has {size_in_words(free)} free. Choose "
            f"{option} on another disk."
        )


def nearest_above(path: Path) -> Path:
    """The nearest thing above `path` that exists; a link counts as what it leads to."""
    return next(above for above in path.resolve().parents if above.exists())


def size_in_words(count: int) -> str:
    """Bytes as a person says them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
