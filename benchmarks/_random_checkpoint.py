"""A checkpoint with the published small files and random weights, whose weights file lies in memory and on no disk.

It is a folder like any other, so all that reads checkpoints reads it as it is: stock transformers, the fingerprints,
the loading of one half. On a CPU they map its pages and copy none, so however often it is loaded, its weights are in
memory once.
"""

import json
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioncrafter.model import checkpoint, memory, weights
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.shards import Shape, header
from captioncrafter.model.weights import StoredTensor

PUBLISHED = "Salesforce/blip2-flan-t5-xl"
PARAMETERS = {
    "vision_model": 985_952_256,
    "qformer": 105_162_240,
    "language_projection": 1_574_912,
    "language_model": 2_849_757_184,
}
"""Of blip2-flan-t5-xl, the learned queries counted with the Q-Former: 3,942.4 M in all, as the hub's listing has it."""

SIZES: dict[str, dict[str, dict[str, int]]] = {
    "xl": {},
    "small": {
        "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        "qformer_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "encoder_hidden_size": 32,
        },
        # bitsandbytes takes no layer narrower than 128.
        "text_config": {
            "d_model": 128,
            "d_kv": 32,
            "d_ff": 256,
            "num_heads": 4,
            "num_layers": 2,
            "num_decoder_layers": 2,
        },
    },
}
"""What differs from the published configuration; `small` is the same road in seconds."""

_DTYPE = torch.bfloat16
_PAGE_BYTES = 4096
_PIECES, _EXTRA = 32_000, 100


@contextmanager
def random_checkpoint(size: str) -> Iterator[Checkpoint]:
    """The checkpoint of one of `SIZES` in bfloat16, the same weights each time; gone afterwards. Needs Linux."""
    with tempfile.TemporaryDirectory(prefix="captioncrafter-") as name:
        folder = Path(name)
        _write_small_files(folder, SIZES[size])
        found = Checkpoint(str(folder), None, folder)
        config = checkpoint.load_config(found)
        shapes = {
            name: Shape(tuple(one.shape), _DTYPE) for name, one in memory.meta_model(config, _DTYPE).named_parameters()
        }
        file = os.memfd_create("weights")
        try:
            _write_weights(file, shapes, config)
            (folder / "model.safetensors").symlink_to(_path_of(file))
            yield found
        finally:
            os.close(file)


def parameters_of(found: Checkpoint) -> dict[str, int]:
    """How many parameters each part has in the checkpoint's weights file, queries counted with the Q-Former."""
    counts = dict.fromkeys(PARAMETERS, 0)
    for name, tensor in weights.stored_tensors(found.folder).items():
        part = name.split(".", 1)[0]
        counts["qformer" if part == "query_tokens" else part] += torch.Size(tensor.shape).numel()
    return counts


def _write_small_files(folder: Path, changes: Mapping[str, Mapping[str, int]]) -> None:
    published = checkpoint.published_files(PUBLISHED)
    assert published is not None
    for file in published.glob("*.json"):
        shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part, widths in changes.items():
        config[part] |= widths
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _write_tokenizer(folder)


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer as large as T5's: the miniature's pieces, which are T5's commonest, and made-up ones behind them."""
    miniature = checkpoint.find("miniature").folder
    tokenizer = json.loads((miniature / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = tokenizer["model"]["vocab"]
    pieces += [[f"▁madeup{number}", -100.0] for number in range(_PIECES - len(pieces))]
    pieces += [[f"<extra_id_{number}>", 0.0] for number in reversed(range(_EXTRA))]
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "<image>"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    shutil.copy(miniature / "tokenizer_config.json", folder)


def _write_weights(file: int, shapes: Mapping[str, Shape], config: Any) -> None:
    """A safetensors file whose tensors are drawn where they lie, several at a time, each from its own seed."""
    begins = header(shapes, alignment=_PAGE_BYTES)
    size = len(begins) + sum(shape.bytes for shape in shapes.values())
    os.ftruncate(file, size)
    with mmap.mmap(file, size) as mapped:
        mapped[: len(begins)] = begins
        places = weights.read_header(_path_of(file))
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(partial(_draw, mapped, config=config), places))


def _path_of(file: int) -> Path:
    return Path(f"/proc/{os.getpid()}/fd/{file}")


def _draw(mapped: mmap.mmap, place: StoredTensor, *, config: Any) -> None:
    name, count = place.name, torch.Size(place.shape).numel()
    tensor = torch.frombuffer(mapped, dtype=_DTYPE, count=count, offset=place.start).view(place.shape)
    if tensor.dim() == 1:
        tensor.fill_(0.0 if name.endswith(".bias") else 1.0)
    else:
        draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        tensor.normal_(std=_deviation(name, tensor, config), generator=draw)


def _deviation(name: str, tensor: Tensor, config: Any) -> float:
    """Keeps activations near 1: features of images then differ by 0.4 of their norm, and by 0.01 when in bfloat16."""
    if name == "language_model.shared.weight":
        return 1.0
    deviation = (tensor.numel() / len(tensor)) ** -0.5
    if name.startswith("language_model.") and name.endswith(".q.weight"):
        return deviation * config.text_config.d_kv**-0.5  # T5 does not divide scores by the root of the head's width
    return deviation
