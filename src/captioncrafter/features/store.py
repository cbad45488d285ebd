"""Features on disk: memory-mapped, content-addressed, checked.

One folder a key; in it `key.json` and parts of some hundred images, each a safetensors file that names the images it
holds (by the names of their features) and the hash of each one's bytes, which every read is held against. A part
appears whole or not at all, so that an interrupted extraction goes on after its last part. Knows nothing of models.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captioncrafter import events, storage
from captioncrafter.errors import CheckpointError, DataError
from captioncrafter.features.key import FeatureKey
from captioncrafter.model import weights

_TENSOR = "features"
_SAFE_FLOAT16 = 32_000.0  # half of float16's range: room for what has not been seen yet
_NUMPY = {"F16": np.float16, "BF16": np.int16, "F32": np.float32}


@dataclass(frozen=True)
class _Part:
    file: Path
    dtype: str
    rows: np.memmap
    hashes: Sequence[str]

    def intact(self, row: int) -> bool:
        """Whether the bytes of a row are as they were written."""
        # A mapped file that became shorter would end the process with SIGBUS instead of an error.
        whole = self.file.is_file() and self.file.stat().st_size >= self.rows.offset + self.rows.nbytes
        return whole and _row_hash(self.rows[row]) == self.hashes[row]


@dataclass
class FeatureStore:
    """The features of one key. `in` asks whether an image (by the name of its features) is there."""

    folder: Path
    _where: dict[str, tuple[_Part, int]] = field(default_factory=dict)
    _read: set[Path] = field(default_factory=set)
    _verified: set[Path] = field(default_factory=set)

    @classmethod
    def open(cls, root: Path, key: FeatureKey) -> "FeatureStore":
        """The store of `key` under `root`, empty when new. Parts that are not whole are left out, and it is said."""
        folder = root / "features" / key.digest
        if not (folder / "key.json").is_file():
            storage.write_json(folder / "key.json", key.facts)
        storage.recover_all(folder)
        store = cls(folder)
        store.refresh()
        return store

    def refresh(self) -> None:
        """Takes in the parts that other processes have written since; those that are not whole go, and it is said."""
        for file in sorted(set(self.folder.glob("*.safetensors")) - self._read):
            self._add(file)

    def __contains__(self, image: str) -> bool:
        return image in self._where

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of `images` whose features are not here, each once, in order.

        Every part that holds one of the others is read and held against its hash first; a damaged one is dropped
        with a line, and its images count as missing.
        """
        wanted = dict.fromkeys(images)
        for part in self._parts(wanted):
            self._verify(part)
        return [image for image in wanted if image not in self._where]

    def _parts(self, images: Iterable[str]) -> list[_Part]:
        found = (self._where[image][0] for image in images if image in self._where)
        return list({part.file: part for part in found}.values())

    def _verify(self, part: _Part) -> None:
        if part.file in self._verified:
            return
        if all(map(part.intact, range(len(part.rows)))):
            self._verified.add(part.file)
            return
        events.warn(f"{part.file}: damaged features; they are computed again.")
        self._where = {image: at for image, at in self._where.items() if at[0].file != part.file}
        part.file.unlink(missing_ok=True)

    def add(self, images: Sequence[str], features: Float[Tensor, "image ..."], *, stored_as: str) -> None:
        """Writes one more part: row i of `features` belongs to `images[i]`.

        `stored_as` is a torch dtype's name or `auto`: float16 where the range allows it, else bfloat16. Raises
        `DataError` when a value is not finite, or beyond the range of `stored_as`.
        """
        from safetensors.torch import save_file

        if bad := _not_finite(features, images):
            raise DataError(f"the vision half gave non-finite features for image {bad}. Is the checkpoint damaged?")
        rows = features.to("cpu", _storage_dtype(features, stored_as)).contiguous()
        if bad := _not_finite(rows, images):
            raise DataError(f"features of image {bad} are beyond the range of {stored_as}: set features.dtype to auto.")
        hashes = [_row_hash(row) for row in rows.view(torch.uint8).numpy()]
        file = self.folder / f"{uuid.uuid4().hex}.safetensors"
        with storage.replacing(file) as temporary:
            save_file(
                {_TENSOR: rows}, temporary, metadata={"images": json.dumps(list(images)), "rows": json.dumps(hashes)}
            )
        self._add(file)

    def rows(self, images: Sequence[str]) -> Float[Tensor, "image position width"]:
        """The features of `images`, in order, in memory; those with fewer positions are padded with zeros behind.

        They come in the dtype they are all stored in, else in float32. Raises `DataError` when one is not here, or is
        no longer what was written.
        """
        rows = [self._row(image) for image in images]
        if len({row.dtype for row in rows}) > 1:
            rows = [row.float() for row in rows]
        return torch.stack(rows) if len({row.shape for row in rows}) == 1 else pad_sequence(rows, batch_first=True)

    def _row(self, image: str) -> Tensor:
        part, row = self._where.get(image, (None, 0))
        if part is None or not part.intact(row):
            raise DataError(
                f"{part.file if part else self.folder}: the features of image {image} are "
                f"{'damaged or were deleted' if part else 'missing'}. Give the command again (a run goes on with "
                "--resume): they are computed anew."
            )
        values = torch.from_numpy(np.array(part.rows[row]))
        return values.view(torch.bfloat16) if part.dtype == "BF16" else values

    def _add(self, file: Path) -> None:
        try:
            part, images = _read_part(file)
        except FileNotFoundError:  # another process found it damaged and dropped it
            return
        except (CheckpointError, SafetensorError, KeyError, ValueError, TypeError):
            events.warn(f"{file}: not a whole part; its features are computed again.")
            file.unlink(missing_ok=True)
            return
        self._read.add(file)
        self._where.update({image: (part, row) for row, image in enumerate(images)})


def _read_part(file: Path) -> tuple[_Part, list[str]]:
    """The part in `file` and its images; raises one of many errors when its header is damaged."""
    (tensor,) = weights.read_header(file)
    with safe_open(file, framework="pt") as opened:
        facts = opened.metadata()
    images, hashes = json.loads(facts["images"]), json.loads(facts["rows"])
    if not len(images) == len(hashes) == tensor.shape[0]:
        raise ValueError("as many images as rows")
    rows = np.memmap(file, _NUMPY[tensor.dtype], mode="r", offset=tensor.start, shape=tensor.shape)
    return _Part(file, tensor.dtype, rows, hashes), images


def _row_hash(row: np.ndarray) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(row).view(np.uint8).data)


def _not_finite(features: Tensor, images: Sequence[str]) -> str | None:
    """The first of `images` whose features hold a value that is not finite."""
    finite = features.isfinite().flatten(1).all(1)
    return None if finite.all() else images[int((~finite).nonzero()[0])]


def _storage_dtype(features: Tensor, stored_as: str) -> torch.dtype:
    if stored_as != "auto":
        return getattr(torch, stored_as)
    return torch.float16 if features.abs().max() < _SAFE_FLOAT16 else torch.bfloat16
