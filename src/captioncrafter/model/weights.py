"""What a checkpoint's safetensors files hold, read from their headers and bytes without loading a model.

Follows the safetensors format: eight bytes of header length, a JSON header naming each tensor's dtype, shape and byte
range, then the tensors' bytes.
"""

import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from captioncrafter.errors import CheckpointError

_LENGTH_BYTES = 8
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: `file`, and its bytes from `start` up to `end` in that file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of every `*.safetensors` file in `folder`, by name.

    Raises `CheckpointError` when there is no such file, or when one is truncated or not safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(_no_weights(folder))
    return {tensor.name: tensor for file in files for tensor in read_header(file)}


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        return (
            f"{folder}: the weights are only there as {pickles[0]}, a pickle file, which can run code when opened. "
            "Load and save it once with transformers' save_pretrained, which writes safetensors, then use that folder."
        )
    return f"{folder}: no *.safetensors file. Is the download complete?"


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of one file; raises `CheckpointError` when it is truncated or not safetensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > size:
            raise CheckpointError(f"{file}: truncated or not a safetensors file ({size} bytes). Fetch it again.")
        header = stream.read(length)
    offset = _LENGTH_BYTES + length
    try:
        tensors = [
            StoredTensor(
                name=name,
                file=file,
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                start=offset + entry["data_offsets"][0],
                end=offset + entry["data_offsets"][1],
            )
            for name, entry in json.loads(header).items()
            if name != "__metadata__"
        ]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        raise CheckpointError(f"{file}: its header is damaged. Fetch it again.") from None
    expected = max((tensor.end for tensor in tensors), default=offset)
    if size != expected:
        raise CheckpointError(f"{file}: {size} bytes where its header promises {expected}: truncated. Fetch it again.")
    return tensors


def fingerprint(folder: Path, wanted: Callable[[str], bool]) -> str:
    """A hash (xxh3-128, hex) of the names, dtypes, shapes and every byte of the tensors whose name is `wanted`."""
    return _hash(folder, wanted, every_byte=True)


def quick_fingerprint(folder: Path) -> str:
    """A hash of all names, dtypes and shapes and of the first and last 4 KiB of every tensor.

    Tells one checkpoint from another in milliseconds; to prove that nothing at all changed, use `fingerprint`.
    """
    return _hash(folder, lambda name: True, every_byte=False)


def _hash(folder: Path, wanted: Callable[[str], bool], *, every_byte: bool) -> str:
    digest = xxhash.xxh3_128()
    tensors = sorted((t for t in stored_tensors(folder).values() if wanted(t.name)), key=lambda t: (t.file, t.start))
    open_files: dict[Path, mmap.mmap] = {}
    for tensor in tensors:
        if tensor.file not in open_files:
            with tensor.file.open("rb") as stream:
                open_files[tensor.file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(open_files[tensor.file])[tensor.start : tensor.end]
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        if every_byte:
            digest.update(view)
        else:
            digest.update(view[:_SAMPLE_BYTES])
            digest.update(view[-_SAMPLE_BYTES:])
        view.release()
    for mapped in open_files.values():
        mapped.close()
    return digest.hexdigest()
