"""The files that hold a checkpoint's weights: all there, whole, in safetensors, as their index says. Headers only."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioncrafter.errors import CheckpointError, counted
from captioncrafter.model import weights
from captioncrafter.model.shards import write_index
from captioncrafter.model.weights import INDEX, WHOLE, StoredTensor
from captioncrafter.stages.ailments.documents import may_change, read_object
from captioncrafter.stages.ailments.finding import Record

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_LFS = b"version https://git-lfs"


def examine_weight_files(record: Record, folder: Path, again: str) -> dict[str, StoredTensor]:
    """The tensors of all whole files by name; `again` says how to fetch a damaged one.

    As loading does, it reads `model.safetensors`, else the shards that the index names.
    """
    files = sorted(folder.glob("*.safetensors"))
    _examine_pickles(record, folder, bool(files))
    index = read_object(record, folder / INDEX, mend=again)
    placed = _placed(record, folder, index, again)
    if WHOLE in {file.name for file in files}:
        read = [folder / WHOLE]
    else:
        read = [
            file for file in files if file.name in placed.values() or (not placed and _NUMBERED.fullmatch(file.name))
        ]
        _examine_shards(record, folder, {file.name for file in read}, placed, again)
    if not read and not record.has("pickle-only", "missing-shard"):
        record.error("no-weights", folder, f"no {WHOLE}, whole or in shards: the download is not complete", again)
    _examine_strangers(record, folder, files, read)
    stored = {tensor.name: tensor for file in read for tensor in _tensors_of(record, file, again)}
    if len(read) == 1 and read[0].name == WHOLE:
        return stored
    _hold_against(record, folder, placed, stored, again)
    if not placed and read and not record.has("missing-shard", "damaged-json"):
        record.error(
            "no-index",
            folder / INDEX,
            f"{counted(len(read), 'shard')} and no index: they are not found without it",
            "Fetch it, or let --fix write it from the shards' headers.",
            repair=None if record.has("damaged-shard", "lfs-pointer") else _index_from(folder / INDEX, stored),
        )
    return stored


def _placed(record: Record, folder: Path, index: dict[str, Any] | None, again: str) -> dict[str, str]:
    """The file of each tensor, as the index has it; empty without one."""
    placed = index.get("weight_map") if index is not None else {}
    if not isinstance(placed, dict) or any(Path(str(name)).name != name for name in placed.values()):
        record.error("damaged-json", folder / INDEX, "holds no weight_map of files beside it", again)
        return {}
    return placed


def _tensors_of(record: Record, file: Path, again: str) -> list[StoredTensor]:
    try:
        with file.open("rb") as opened:
            is_pointer = opened.read(len(_LFS)) == _LFS
        if is_pointer:
            record.error(
                "lfs-pointer", file, "git cloned the pointer and not the file", "git lfs install && git lfs pull"
            )
            return []
        return weights.read_header(file)
    except FileNotFoundError:
        record.error("damaged-shard", file, "a link to a file that is not there", again)
    except CheckpointError as error:
        what = str(error).removeprefix(f"{file}: ").removesuffix(" Fetch it again.").removesuffix(".")
        record.error("damaged-shard", file, what, again)
    except OSError as error:
        record.error("damaged-shard", file, f"cannot be read ({error.strerror})", again)
    return []


def pickles_in(folder: Path) -> list[str]:
    """Names of the files that run code when an unwary program opens them."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)


def _examine_pickles(record: Record, folder: Path, has_safetensors: bool) -> None:
    found = pickles_in(folder)
    if not found:
        return
    if has_safetensors:
        record.note(
            "pickle",
            folder,
            f"{counted(len(found), 'pickle file lies', 'pickle files lie')} beside the safetensors, never opened here",
            "Remove them if nothing else needs them: opening a pickle can run code.",
            details=tuple(found),
        )
        return
    record.error(
        "pickle-only",
        folder,
        f"the weights are only there as {found[0]}: a pickle, which can run code when it is opened, and is not opened",
        "Where you trust its maker: load it once with transformers' from_pretrained, save_pretrained it into another "
        "folder (that writes safetensors), and use that one.",
        details=tuple(found),
    )


def _examine_shards(record: Record, folder: Path, names: set[str], placed: dict[str, str], again: str) -> None:
    counts = Counter(placed.values())
    for name in sorted({*_lost_numbers(names), *counts} - names):
        told = f" with {counted(counts[name], 'tensor')}" if counts[name] else ""
        there = " (a link to a file that is gone)" if (folder / name).is_symlink() else ""
        record.error("missing-shard", folder / name, f"a shard{told} that is not there{there}", again)


def _lost_numbers(names: set[str]) -> list[str]:
    """Shards that must exist for others to be called what they are."""
    found = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    wanted = {f"{m[1]}-{number:05d}-of-{m[3]}.safetensors" for m in found for number in range(1, int(m[3]) + 1)}
    return sorted(wanted - names)


def _examine_strangers(record: Record, folder: Path, files: list[Path], read: list[Path]) -> None:
    strangers = [file.name for file in files if file not in read]
    if strangers and read:
        record.note(
            "stray-file",
            folder,
            f"{counted(len(strangers), 'file is', 'files are')} not of this checkpoint and not read, {strangers[0]} "
            "first",
            "Remove them if nothing else needs them.",
            details=tuple(strangers),
        )


def _hold_against(
    record: Record, folder: Path, placed: dict[str, str], stored: dict[str, StoredTensor], again: str
) -> None:
    whole = {tensor.file.name for tensor in stored.values()}
    wrong = [
        name
        for name, file in placed.items()
        if file in whole and (name not in stored or stored[name].file.name != file)
    ]
    if wrong:
        record.error(
            "index-disagrees",
            folder / INDEX,
            f"{counted(len(wrong), 'tensor is', 'tensors are')} not in the file it names, {wrong[0]} first: shards of "
            "another checkpoint",
            again,
            details=tuple(wrong),
        )


def _index_from(path: Path, stored: dict[str, StoredTensor]) -> Callable[[], str] | None:
    if not may_change(path):
        return None

    def repair() -> str:
        total = sum(tensor.end - tensor.start for tensor in stored.values())
        placed = {name: tensor.file.name for name, tensor in sorted(stored.items())}
        write_index(path.parent, placed, total)
        return f"{path.name} written from the headers of {counted(len(set(placed.values())), 'shard')}"

    return repair
