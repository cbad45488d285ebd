"""What is written tensor by tensor is what safetensors itself reads."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from captioncrafter.errors import CheckpointError
from captioncrafter.model.shards import Shape, read_tensor, write_shards
from captioncrafter.model.weights import INDEX, WHOLE, StoredTensor, stored_tensors

TENSORS = {
    "odd": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "positions": torch.arange(7),
    "wide": torch.randn(4, 6, generator=torch.Generator().manual_seed(1)),
    "one": torch.tensor(2.5),
}


def write(folder: Path, *, shard_bytes: int = 10**6) -> dict[str, str]:
    shapes = {name: Shape(tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}
    return write_shards(folder, shapes, TENSORS.__getitem__, shard_bytes=shard_bytes)


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        torch.equal(found[name], TENSORS[name]) and found[name].dtype == TENSORS[name].dtype for name in TENSORS
    )


def test_safetensors_reads_the_same_tensors(tmp_path: Path):
    write(tmp_path)

    assert same(load_file(tmp_path / WHOLE))


def test_a_model_that_is_too_large_for_one_file_has_parts_and_an_index(tmp_path: Path):
    hashes = write(tmp_path, shard_bytes=100)

    index = json.loads((tmp_path / INDEX).read_text())
    assert sorted(hashes) == [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    assert set(index["weight_map"].values()) == set(hashes)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    assert same({name: tensor for file in hashes for name, tensor in load_file(tmp_path / file).items()})
    assert same({name: read_tensor(stored) for name, stored in stored_tensors(tmp_path).items()})


def test_no_part_is_larger_than_asked_for_unless_one_tensor_is(tmp_path: Path):
    hashes = write(tmp_path, shard_bytes=50)

    sizes = [sum(tensor.nbytes for tensor in load_file(tmp_path / file).values()) for file in hashes]
    assert sizes == [30, 56, 96, 4]


def test_the_hashes_are_those_of_the_files(tmp_path: Path):
    for file, sha256 in write(tmp_path, shard_bytes=100).items():
        assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == sha256


def test_what_safetensors_wrote_is_read_the_same(tmp_path: Path):
    save_file(TENSORS, tmp_path / WHOLE, metadata={"format": "pt"})

    assert same({name: read_tensor(stored) for name, stored in stored_tensors(tmp_path).items()})


def test_a_dtype_of_no_weight_is_refused_by_name(tmp_path: Path):
    with pytest.raises(CheckpointError, match="scales is stored as F8_E4M3"):
        read_tensor(StoredTensor("scales", tmp_path / WHOLE, "F8_E4M3", (1,), 0, 1))
