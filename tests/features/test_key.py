"""Features stand for an image only while nothing that they depend on has changed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from captioncrafter.errors import CheckpointError
from captioncrafter.features.key import FeatureKey, feature_key, feature_name
from captioncrafter.model import checkpoint, weights
from captioncrafter.model.cut import Cut
from captioncrafter.model.prompts import Prompt, encode_prompt
from tiny import changed_copy, flip_byte, rewrite_tensors, tiny_processor

# One weight of each part on the way, in order: before a cut lie those up to it.
WAY = {
    "vision_model.encoder.layers.1.mlp.fc2.bias": Cut.VISION,
    "vision_model.embeddings.class_embedding": Cut.VISION,
    "qformer.encoder.layer.0.attention.attention.query.weight": Cut.QFORMER,
    "query_tokens": Cut.QFORMER,
    "language_projection.weight": Cut.PROJECTION,
    "language_model.shared.weight": Cut.ENCODER,
    "language_model.encoder.final_layer_norm.weight": Cut.ENCODER,
}
STORED = [cut for cut in Cut if cut is not Cut.IMAGES]
ORDER = list(Cut)


def key_of(
    folder: Path, cut: Cut = Cut.ENCODER, *, computed_in: str = "fp32 computed in fp32", stored_as: str = "auto"
) -> FeatureKey:
    found = checkpoint.find(str(folder))
    return feature_key(found, checkpoint.load_processor(found), cut, computed_in=computed_in, stored_as=stored_as)


def flip_first_byte_of(folder: Path, name: str) -> None:
    tensor = weights.stored_tensors(folder)[name]
    flip_byte(tensor.file, tensor.start)


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def test_a_copy_elsewhere_has_the_same_key(tiny_checkpoint: Path, copy: Path):
    assert key_of(copy).digest == key_of(tiny_checkpoint).digest


def test_each_cut_has_its_own_key(tiny_checkpoint: Path):
    assert len({key_of(tiny_checkpoint, cut).digest for cut in STORED}) == len(STORED)


@pytest.mark.parametrize("name", WAY)
def test_one_byte_of_a_weight_changes_the_key_of_those_cuts_that_it_lies_before(copy: Path, name: str):
    before = {cut: key_of(copy, cut).digest for cut in STORED}

    flip_first_byte_of(copy, name)

    changed = [cut for cut in STORED if key_of(copy, cut).digest != before[cut]]
    assert changed == [cut for cut in STORED if ORDER.index(cut) >= ORDER.index(WAY[name])]


@pytest.mark.parametrize(
    "name", ["language_model.lm_head.weight", "language_model.decoder.block.0.layer.0.SelfAttention.q.weight"]
)
def test_the_decoder_leaves_every_key_as_it_is(copy: Path, name: str):
    before = [key_of(copy, cut).digest for cut in STORED]

    flip_first_byte_of(copy, name)

    assert [key_of(copy, cut).digest for cut in STORED] == before


def test_a_byte_in_the_middle_of_a_weight_changes_the_key(copy: Path):
    before = key_of(copy).digest
    tensor = weights.stored_tensors(copy)["vision_model.embeddings.patch_embedding.weight"]

    flip_byte(tensor.file, (tensor.start + tensor.end) // 2)

    assert key_of(copy).digest != before


@pytest.mark.parametrize(
    "part",
    [
        "vision_model",
        "qformer",
        "query_tokens",
        "language_projection",
        "language_model.shared",
        "language_model.encoder",
    ],
)
def test_a_checkpoint_without_one_frozen_part_has_no_key(copy: Path, part: str):
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(part)]:
            tensors[f"blip2.{name}"] = tensors.pop(name)

    for file in copy.glob("*.safetensors"):
        rewrite_tensors(file, rename)

    with pytest.raises(CheckpointError) as refused:
        key_of(copy)

    assert str(refused.value).startswith(f'{copy}: no tensor is named "{part}')


def test_a_setting_of_the_processor_changes_every_key(tiny_checkpoint: Path, tmp_path: Path):
    settings = json.loads((tiny_checkpoint / "processor_config.json").read_text())["image_processor"]
    other = changed_copy(
        tiny_checkpoint, tmp_path / "other", "processor_config.json", image_processor=settings | {"resample": 2}
    )

    assert [cut for cut in STORED if key_of(other, cut).digest == key_of(tiny_checkpoint, cut).digest] == []


@pytest.mark.parametrize(
    ("part", "setting", "value", "first"),
    [
        ("vision_config", "layer_norm_eps", 1e-5, Cut.VISION),
        ("qformer_config", "layer_norm_eps", 1e-6, Cut.QFORMER),
        ("text_config", "layer_norm_epsilon", 1e-5, Cut.ENCODER),
    ],
)
def test_a_setting_of_a_part_changes_the_key_of_those_cuts_that_the_part_lies_before(
    tiny_checkpoint: Path, tmp_path: Path, part: str, setting: str, value: float, first: Cut
):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    other = changed_copy(tiny_checkpoint, tmp_path / "other", "config.json", **{part: config[part] | {setting: value}})

    changed = [cut for cut in STORED if key_of(other, cut).digest != key_of(tiny_checkpoint, cut).digest]

    assert changed == [cut for cut in STORED if ORDER.index(cut) >= ORDER.index(first)]


def test_another_precision_is_another_key(tiny_checkpoint: Path):
    assert key_of(tiny_checkpoint, computed_in="bf16").digest != key_of(tiny_checkpoint).digest


def test_another_storage_dtype_is_another_key(tiny_checkpoint: Path):
    assert key_of(tiny_checkpoint, stored_as="float32").digest != key_of(tiny_checkpoint).digest


def test_the_facts_of_a_key_can_be_written_as_json(tiny_checkpoint: Path):
    facts = key_of(tiny_checkpoint).facts

    assert FeatureKey(json.loads(json.dumps(facts))).digest == FeatureKey(facts).digest


def prompt_of(text: str) -> Prompt:
    return encode_prompt(tiny_processor(), text)


@pytest.mark.parametrize("cut", [cut for cut in STORED if cut is not Cut.ENCODER])
def test_before_the_encoder_features_have_the_name_of_their_image(cut: Cut):
    assert feature_name("image", prompt_of("a photo of"), cut) == "image"


def test_behind_the_encoder_each_prompt_of_an_image_has_features_of_its_own():
    names = {feature_name("image", prompt_of(text), Cut.ENCODER) for text in ("a photo of", "a photo", "", "a dog")}

    assert len(names) == 4


def test_behind_the_encoder_prompts_of_the_same_words_share_their_features():
    one, other = (feature_name("image", prompt_of(text), Cut.ENCODER) for text in ("a photo of", "a  photo \n of"))

    assert one == other
    assert one != feature_name("another", prompt_of("a photo of"), Cut.ENCODER)
