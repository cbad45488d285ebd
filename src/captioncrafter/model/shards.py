"""Writes safetensors files tensor by tensor, so that no more than one of them is in memory.

Follows the safetensors format as `weights` reads it, and transformers' names for a model in parts with their index.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from captioncrafter import storage
from captioncrafter.errors import CheckpointError
from captioncrafter.model.weights import INDEX, LENGTH_BYTES, WHOLE, StoredTensor

SHARD_BYTES = 5 * 10**9
"""Largest file of a model in parts; a single tensor above it has a file of its own."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class Shape:
    """What a tensor that is still to be written will be."""

    sizes: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return math.prod(self.sizes) * self.dtype.itemsize


def read_tensor(stored: StoredTensor) -> Tensor:
    """One tensor from its file, without mapping the file into memory; raises `CheckpointError` for a strange dtype."""
    if stored.dtype not in _DTYPES:
        raise CheckpointError(f"{stored.file}: {stored.name} is stored as {stored.dtype}, which is no weight's dtype.")
    content = bytearray(stored.end - stored.start)
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        file.readinto(content)
    if not content:
        return torch.empty(stored.shape, dtype=_DTYPES[stored.dtype])
    return torch.frombuffer(content, dtype=_DTYPES[stored.dtype]).reshape(stored.shape)


def dtype_of(stored: StoredTensor) -> torch.dtype | None:
    """The dtype a tensor is stored in; None for one that torch's weights do not have."""
    return _DTYPES.get(stored.dtype)


def write_shards(
    folder: Path,
    shapes: Mapping[str, Shape],
    tensor_of: Callable[[str], Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, str]:
    """Writes `model.safetensors`, or parts of it with their index, in the order of `shapes`.

    Gives the sha256 of each file of tensors as it was written, by name.
    """
    parts = _parts(shapes, shard_bytes)
    if len(parts) == 1:
        return {WHOLE: _write(folder / WHOLE, shapes, tensor_of)}
    hashes, placed = {}, {}
    for number, names in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        hashes[file] = _write(folder / file, {name: shapes[name] for name in names}, tensor_of)
        placed |= dict.fromkeys(names, file)
    write_index(folder, placed, sum(shape.bytes for shape in shapes.values()))
    return hashes


def write_index(folder: Path, placed: Mapping[str, str], size: int) -> None:
    """Tells which file each tensor is in, and how many bytes all tensors take."""
    storage.write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": dict(placed)})


def _parts(shapes: Mapping[str, Shape], shard_bytes: int) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        if parts[-1] and filled + shape.bytes > shard_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += shape.bytes
    return parts


def _write(file: Path, shapes: Mapping[str, Shape], tensor_of: Callable[[str], Tensor]) -> str:
    # The widest first, as safetensors itself does: then every tensor begins at a multiple of its element's size.
    names = sorted(shapes, key=lambda name: -shapes[name].dtype.itemsize)
    digest = hashlib.sha256()
    with file.open("wb") as stream:

        def put(content: bytes | memoryview) -> None:
            stream.write(content)
            digest.update(content)

        put(header({name: shapes[name] for name in names}))
        for name in names:
            tensor = tensor_of(name)
            assert (tuple(tensor.shape), tensor.dtype) == (shapes[name].sizes, shapes[name].dtype)
            put(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def header(shapes: Mapping[str, Shape], *, alignment: int = _ALIGNMENT) -> bytes:
    """What a safetensors file of these tensors begins with; they follow in this order, at a multiple of `alignment`."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        entries[name] = {
            "dtype": _NAMES[shape.dtype],
            "shape": list(shape.sizes),
            "data_offsets": [at, at + shape.bytes],
        }
        at += shape.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % alignment)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
