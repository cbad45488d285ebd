"""Stored features: which weights and pictures they are of, and whether their files are whole."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open

from captioncrafter.errors import CheckpointError
from captioncrafter.features.key import FeatureKey
from captioncrafter.model import weights
from captioncrafter.stages.ailments.documents import read_object
from captioncrafter.stages.ailments.finding import BROKEN, Record

KEY = "key.json"
_AGAIN = "Nothing to do: the next training that needs them drops the file and computes them again."


def stores_in(folder: Path) -> list[Path]:
    """The stores in a cache folder, in its `features` folder, or the store that `folder` is."""
    if (folder / KEY).is_file():
        return [folder]
    return sorted(path.parent for inner in (folder, folder / "features") for path in inner.glob(f"*/{KEY}"))


def examine_stores(record: Record, folders: Iterable[Path]) -> None:
    """Each store with what it holds."""
    for folder in folders:
        part = Record("store", str(folder))
        examine_store(part, folder)
        record.absorb(part, folder.name)


def examine_store(record: Record, folder: Path) -> set[str]:
    """One store: its key, its parts. Gives the names of the images whose features are whole."""
    facts = read_object(record, folder / KEY, mend="Remove the folder: its features are computed again.")
    if facts is None:
        return set()
    record.facts |= {"cut": facts.get("cut"), "computed in": facts.get("computed_in"), "weights": facts.get("weights")}
    if FeatureKey(facts).digest != folder.name:
        record.error(
            "stale-features",
            folder / KEY,
            "what they depend on does not hash to the folder's name: changed by hand, or a folder that was renamed",
            "Remove the folder: its features are computed again.",
        )
    images: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            names, damaged = _part(file)
        except (CheckpointError, SafetensorError, *BROKEN) as error:
            first = (str(error) or type(error).__name__).splitlines()[0].removeprefix(f"{file}: ")
            record.warning("damaged-features", file, f"not whole ({first})", _AGAIN)
            continue
        if damaged:
            record.warning("damaged-features", file, f"{damaged} of {len(names)} rows not as written", _AGAIN)
        else:
            images.update(names)
    record.facts["images"] = len(images)
    record.facts["bytes"] = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file())
    return images


def _part(file: Path) -> tuple[list[str], int]:
    """The images of one part, and how many of its rows are not what was written; raises at anything else."""
    (tensor,) = weights.read_header(file)
    with safe_open(file, framework="np") as opened:
        facts: dict[str, Any] = opened.metadata()
    names, hashes = json.loads(facts["images"]), json.loads(facts["rows"])
    if not len(names) == len(hashes) == tensor.shape[0]:
        raise ValueError("another number of images than rows")
    rows = np.memmap(file, np.uint8, mode="r", offset=tensor.start, shape=(len(names), _row_bytes(tensor)))
    return names, sum(xxhash.xxh3_64_hexdigest(row.data) != hash_ for row, hash_ in zip(rows, hashes, strict=True))


def _row_bytes(tensor: weights.StoredTensor) -> int:
    return (tensor.end - tensor.start) // tensor.shape[0]
