"""Weights in parts, as the hub keeps them: the file that is missing, damaged or another one is named first."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from captioncrafter.errors import CheckpointError
from captioncrafter.model import checkpoint, weights
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.loading import load_model
from hub_layouts import INDEX, Layout, write_published


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint in two parts with an index, to damage."""
    return write_published(tmp_path / "sharded")


def load_vision(folder: Path) -> nn.Module:
    return load_model(
        checkpoint.find(str(folder)),
        arithmetic=Arithmetic(torch.float32),
        device=torch.device("cpu"),
        parts=("vision_model",),
    )


@pytest.mark.parametrize("part", [1, 2])
def test_a_missing_part_is_named_whatever_is_loaded(sharded: Path, part: int):
    gone = f"model-{part:05}-of-00002.safetensors"
    (sharded / gone).unlink()

    with pytest.raises(CheckpointError, match=rf"{gone}: missing, and \d+ of the weights .* Fetch it again"):
        load_vision(sharded)


@pytest.mark.parametrize("part", [1, 2])
def test_a_truncated_part_is_named(sharded: Path, part: int):
    file = sharded / f"model-{part:05}-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(CheckpointError, match=rf"{file.name}: \d+ bytes where its header promises \d+: truncated"):
        load_vision(sharded)


def test_a_part_in_the_place_of_another_is_named(sharded: Path):
    one, other = sorted(sharded.glob("*.safetensors"))
    one.write_bytes(other.read_bytes())

    with pytest.raises(CheckpointError, match=rf"{one.name}: \d+ of the weights .* are not in it, query_tokens first"):
        load_vision(sharded)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_damaged_index_is_named(sharded: Path, content: str):
    (sharded / INDEX).write_text(content)

    with pytest.raises(CheckpointError, match=rf"{INDEX}: .* Fetch it again"):
        load_vision(sharded)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/outside.safetensors", "weights.bin"])
def test_an_index_leads_neither_out_of_its_folder_nor_to_a_pickle(sharded: Path, shard: str):
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"query_tokens": shard}}))

    with pytest.raises(CheckpointError, match=rf"{INDEX}: it must name \*\.safetensors files beside it"):
        load_vision(sharded)


def test_parts_without_their_index_are_refused_as_such(sharded: Path):
    (sharded / INDEX).unlink()

    with pytest.raises(CheckpointError, match=rf"model-00001-of-00002\.safetensors is there, but {INDEX}.* is not"):
        load_vision(sharded)


def test_other_safetensors_beside_the_checkpoint_are_not_its_weights(sharded: Path):
    (sharded / "adapter_model.safetensors").write_bytes(b"not even safetensors")

    load_vision(sharded)


def test_a_half_is_read_from_its_shard_as_it_is_from_the_whole(sharded: Path, tmp_path: Path):
    whole = load_vision(write_published(tmp_path / "whole", Layout(shards=1)))

    part = load_vision(sharded)

    held = {name: weight for name, weight in part.named_parameters() if not weight.is_meta}
    assert {name.split(".")[0] for name in held} == {"vision_model"}
    assert all(torch.equal(weight, whole.get_parameter(name)) for name, weight in held.items())


@pytest.mark.parametrize("fingerprint", [weights.quick_fingerprint, lambda folder: weights.fingerprint(folder, bool)])
def test_the_same_weights_in_one_file_or_in_several_have_one_fingerprint(
    sharded: Path, tmp_path: Path, fingerprint: Callable[[Path], str]
):
    assert fingerprint(write_published(tmp_path / "whole", Layout(shards=1))) == fingerprint(sharded)
