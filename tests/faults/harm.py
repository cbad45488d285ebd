"""Damage to files of a run, as disks, people and other programs do it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

HARMS: dict[str, Callable[[Path], None]] = {}
"""What can happen to a file, by name."""


def harm(action: Callable[[Path], None]) -> Callable[[Path], None]:
    """Lists an action under its name."""
    HARMS[action.__name__] = action
    return action


@harm
def first_byte(file: Path) -> None:
    """Turns one bit of the first byte over."""
    _flip(file, 0)


@harm
def middle_byte(file: Path) -> None:
    """Turns one bit of the byte in the middle over."""
    _flip(file, file.stat().st_size // 2)


@harm
def last_byte(file: Path) -> None:
    """Turns one bit of the last byte that is no line feed over."""
    _flip(file, len(file.read_bytes().rstrip(b"\n")) - 1)


@harm
def cut_short(file: Path) -> None:
    """Leaves the first half."""
    os.truncate(file, file.stat().st_size // 2)


@harm
def emptied(file: Path) -> None:
    """Leaves nothing."""
    os.truncate(file, 0)


@harm
def deleted(file: Path) -> None:
    """Takes the file away."""
    file.unlink()


def poison(store: Path, image: int) -> None:
    """Makes the features of one image NaN, with the hash of their bytes as it should be.

    `image` counts through the parts of the store, in order of their names.
    """
    for part in sorted(store.rglob("*.safetensors")):
        with safe_open(part, framework="np") as opened:
            facts = opened.metadata()
        rows = load_file(part)
        features = rows["features"]
        if image < len(features):
            features[image] = np.nan
            hashes = json.loads(facts["rows"])
            hashes[image] = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(features[image]).view(np.uint8).data)
            save_file(rows, part, metadata=facts | {"rows": json.dumps(hashes)})
            return
        image -= len(features)
    raise IndexError(image)


def _flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
