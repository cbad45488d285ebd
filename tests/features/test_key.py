"""Features stand for an image only while nothing that they depend on has changed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from captioncrafter.errors import CheckpointError
from captioncrafter.features.key import feature_key
from captioncrafter.model import checkpoint, weights
from tiny import changed_copy, flip_byte, rewrite_tensors


def key_of(folder: Path, *, computed_in: torch.dtype = torch.float32, stored_as: str = "auto") -> str:
    found = checkpoint.find(str(folder))
    return feature_key(found, checkpoint.load_processor(found), computed_in=computed_in, stored_as=stored_as).digest


def flip_first_byte_of(folder: Path, name: str) -> None:
    tensor = weights.stored_tensors(folder)[name]
    flip_byte(tensor.file, tensor.start)


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def test_a_copy_elsewhere_has_the_same_key(tiny_checkpoint: Path, copy: Path):
    assert key_of(copy) == key_of(tiny_checkpoint)


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.embeddings.class_embedding",
        "vision_model.encoder.layers.1.mlp.fc2.bias",
        "qformer.encoder.layer.0.attention.attention.query.weight",
        "query_tokens",
    ],
)
def test_one_byte_of_a_frozen_weight_changes_the_key(copy: Path, name: str):
    before = key_of(copy)

    flip_first_byte_of(copy, name)

    assert key_of(copy) != before


def test_a_byte_in_the_middle_of_a_weight_changes_the_key(copy: Path):
    before = key_of(copy)
    tensor = weights.stored_tensors(copy)["vision_model.embeddings.patch_embedding.weight"]

    flip_byte(tensor.file, (tensor.start + tensor.end) // 2)

    assert key_of(copy) != before


@pytest.mark.parametrize("prefix", ["vision_model.", "qformer.", "query_tokens"])
def test_a_checkpoint_without_one_frozen_part_has_no_key(copy: Path, prefix: str):
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            tensors[f"blip2.{name}"] = tensors.pop(name)

    for file in copy.glob("*.safetensors"):
        rewrite_tensors(file, rename)

    with pytest.raises(CheckpointError) as refused:
        key_of(copy)

    assert str(refused.value).startswith(f'{copy}: no tensor is named "{prefix}')


@pytest.mark.parametrize(
    "name",
    ["language_model.lm_head.weight", "language_model.shared.weight", "language_projection.weight"],
)
def test_the_language_half_leaves_the_key_as_it_is(copy: Path, name: str):
    before = key_of(copy)

    flip_first_byte_of(copy, name)

    assert key_of(copy) == before


def test_another_setting_of_the_processor_is_another_key(tiny_checkpoint: Path, tmp_path: Path):
    settings = json.loads((tiny_checkpoint / "processor_config.json").read_text())["image_processor"]
    other = changed_copy(
        tiny_checkpoint, tmp_path / "other", "processor_config.json", image_processor=settings | {"resample": 2}
    )

    assert key_of(other) != key_of(tiny_checkpoint)


@pytest.mark.parametrize(("part", "epsilon"), [("vision_config", 1e-5), ("qformer_config", 1e-6)])
def test_another_layer_norm_epsilon_over_the_same_weights_is_another_key(
    tiny_checkpoint: Path, tmp_path: Path, part: str, epsilon: float
):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    changed = {part: config[part] | {"layer_norm_eps": epsilon}}
    other = changed_copy(tiny_checkpoint, tmp_path / "other", "config.json", **changed)

    assert key_of(other) != key_of(tiny_checkpoint)


def test_another_precision_is_another_key(tiny_checkpoint: Path):
    assert key_of(tiny_checkpoint, computed_in=torch.bfloat16) != key_of(tiny_checkpoint)


def test_another_storage_dtype_is_another_key(tiny_checkpoint: Path):
    assert key_of(tiny_checkpoint, stored_as="float32") != key_of(tiny_checkpoint)
