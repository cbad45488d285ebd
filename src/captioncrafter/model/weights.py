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

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LENGTH_BYTES = 8
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
    """Every tensor of the checkpoint in `folder`, by name: of `model.safetensors`, else of the shards its index names.

    Only headers are read. Raises `CheckpointError` naming the file that is missing, truncated, not safetensors, or
    without a tensor that the index places in it.
    """
    whole, index = folder / WHOLE, folder / INDEX
    if whole.is_file():
        return {tensor.name: tensor for tensor in read_header(whole)}
    if not index.is_file():
        raise CheckpointError(_no_weights(folder))
    promised = _promised_by(index)
    for shard, names in promised.items():
        if not (folder / shard).is_file():
            raise CheckpointError(
                f"{folder / shard}: missing, and {len(names)} of the weights that {INDEX} names lie there. Fetch it "
                "again: for a hub name run the command again with a network, for a folder copy this file."
            )
    stored = {tensor.name: tensor for shard in promised for tensor in read_header(folder / shard)}
    for shard, names in promised.items():
        strange = [name for name in names if name not in stored or stored[name].file.name != shard]
        if strange:
            raise CheckpointError(
                f"{folder / shard}: {len(strange)} of the weights that {INDEX} places there are not in it, "
                f"{strange[0]} first: it is another file than it should be. Fetch it again."
            )
    return stored


def _promised_by(index: Path) -> dict[str, list[str]]:
    """Names of the tensors in each shard, in order, as an index has them; no shard lies outside of its folder."""
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, list[str]] = {shard: [] for shard in sorted(set(placed.values()))}
        for name, shard in placed.items():
            shards[shard].append(name)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: damaged: no JSON object with a weight_map. Fetch it again.") from None
    if not shards or any(Path(shard).name != shard or not shard.endswith(".safetensors") for shard in shards):
        raise CheckpointError(f"{index}: it must name *.safetensors files beside it, and some. Fetch it again.")
    return shards


def _no_weights(folder: Path) -> str:
    parts = sorted(path.name for path in folder.glob("*-of-*.safetensors"))
    if parts:
        return f"{folder}: {parts[0]} is there, but {INDEX}, which tells the parts, is not. Fetch it again."
    lost = sorted(path.name for path in folder.glob("*.safetensors") if not path.exists())
    if lost:
        return f"{folder / lost[0]}: a link to a file that is gone. Fetch it again."
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        return (
            f"{folder}: the weights are only there as {pickles[0]}, a pickle file, which can run code when opened. "
            "Load and save it once with transformers' save_pretrained, which writes safetensors, then use that folder."
        )
    return f"{folder}: no {WHOLE}, whole or in parts. Is the download complete?"


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of one file; raises `CheckpointError` when it is truncated or not safetensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > size:
            raise CheckpointError(f"{file}: truncated or not a safetensors file ({size} bytes). Fetch it again.")
        header = stream.read(length)
    offset = LENGTH_BYTES + length
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
    """Read in the order of the disk, put together in that of the names: however the tensors lie in files."""
    found: dict[str, str] = {}
    tensors = sorted((t for t in stored_tensors(folder).values() if wanted(t.name)), key=lambda t: (t.file, t.start))
    open_files: dict[Path, mmap.mmap] = {}
    for tensor in tensors:
        if tensor.file not in open_files:
            with tensor.file.open("rb") as stream:
                open_files[tensor.file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(open_files[tensor.file])[tensor.start : tensor.end]
        digest = xxhash.xxh3_128(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        if every_byte:
            digest.update(view)
        else:
            digest.update(view[:_SAMPLE_BYTES])
            digest.update(view[-_SAMPLE_BYTES:])
        found[tensor.name] = digest.hexdigest()
        view.release()
    for mapped in open_files.values():
        mapped.close()
    return xxhash.xxh3_128_hexdigest("\n".join(found[name] for name in sorted(found)).encode())
