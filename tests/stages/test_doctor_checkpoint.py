"""Every ailment of a base model, planted on a tiny one and found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from captioncrafter.stages.ailments.weight_files import INDEX
from patients import ailments, changed_files, contents, troubles
from tiny import changed_copy, rewrite_tensors, without_key, write_tiny_checkpoint, write_tiny_opt_checkpoint

HEAD, EMBEDDING = "language_model.lm_head.weight", "language_model.shared.weight"


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


@pytest.fixture
def shards(copy: Path) -> Path:
    """The copy in three shards with their index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names, placed = sorted(tensors), {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[number::3]}, copy / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(names[number::3], file)
    (copy / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return copy


def edited(file: Path, **changes: object) -> None:
    """Changes keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("write", [write_tiny_checkpoint, write_tiny_opt_checkpoint])
def test_nothing_is_found_of_a_sound_checkpoint(write: Callable[[Path], Path], tmp_path: Path):
    assert ailments(write(tmp_path / "base")) == {}


def test_nothing_is_found_of_the_embedded_one():
    assert ailments("miniature") == {}


def test_nothing_is_wrong_with_shards(shards: Path):
    assert ailments(shards) == {}


def test_nothing_but_the_lack_of_weights_is_found_of_the_published_files(published_files: Path, tmp_path: Path):
    folder = shutil.copytree(published_files.parents[1] / "tokenizers" / "t5", tmp_path / "published")
    shutil.copytree(published_files, folder, dirs_exist_ok=True)

    assert set(ailments(folder)) == {"no-weights"}


def test_a_head_that_some_tool_tied_is_found(copy: Path):
    rewrite_tensors(copy / "model.safetensors", lambda t: t.update({HEAD: t[EMBEDDING].clone()}))

    assert troubles(copy) == {"head-tied"}


def test_a_head_that_was_left_out_is_found(copy: Path):
    rewrite_tensors(copy / "model.safetensors", lambda t: t.pop(HEAD))

    assert troubles(copy) == {"head-lost"}


def test_a_head_of_its_own_that_the_configuration_calls_tied_is_found(tmp_path: Path):
    tied = write_tiny_checkpoint(tmp_path / "tied", tied=True)
    rewrite_tensors(tied / "model.safetensors", lambda t: t.update({HEAD: t[EMBEDDING] + 1}))

    assert troubles(tied) == {"head-scaled"}


def test_a_checkpoint_that_is_tied_by_nature_is_well(tmp_path: Path):
    assert ailments(write_tiny_checkpoint(tmp_path / "tied", tied=True)) == {}


def test_a_missing_shard_is_named_with_what_it_held(shards: Path):
    (shards / "model-00002-of-00003.safetensors").unlink()

    found = ailments(shards)

    assert set(found) == {"missing-shard"}
    assert found["missing-shard"].where.endswith("model-00002-of-00003.safetensors")
    assert "43 tensors" in found["missing-shard"].what


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"", lambda data: b"<html>" + data])
def test_a_damaged_shard_is_named(shards: Path, damage: Callable[[bytes], bytes]):
    file = shards / "model-00003-of-00003.safetensors"
    file.write_bytes(damage(file.read_bytes()))

    found = ailments(shards)

    assert found["damaged-shard"].where == str(file)
    assert not {"missing-weights", "head-lost"} & set(found)


def test_a_git_lfs_pointer_in_place_of_weights_is_found(copy: Path):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")

    assert "git lfs pull" in ailments(copy)["lfs-pointer"].mend


def test_shards_of_another_checkpoint_are_found(shards: Path):
    one, two = (shards / f"model-0000{number}-of-00003.safetensors" for number in (1, 2))
    shutil.copy(one, two)

    assert "index-disagrees" in troubles(shards)


def test_a_lost_index_is_written_again_from_the_headers(shards: Path):
    index = json.loads((shards / INDEX).read_text())["weight_map"]
    (shards / INDEX).unlink()
    before = contents(shards)
    assert troubles(shards) == {"no-index"}

    found = ailments(shards, fix=True)

    assert found["no-index"].mended
    assert changed_files(before, shards) == {INDEX}
    assert json.loads((shards / INDEX).read_text())["weight_map"] == index
    assert ailments(shards) == {}


def test_an_index_that_is_no_index_is_found(shards: Path):
    (shards / INDEX).write_text('{"weight_map": 3}')

    assert "damaged-json" in troubles(shards)


def test_weights_that_are_only_a_pickle_are_found_and_not_opened(copy: Path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")

    found = ailments(copy)

    assert set(found) == {"pickle-only"}
    assert "save_pretrained" in found["pickle-only"].mend


def test_a_pickle_beside_safetensors_is_a_note(copy: Path):
    (copy / "pytorch_model.bin").write_bytes(b"anything")

    assert ailments(copy)["pickle"].severity == "note"


def test_files_that_are_not_of_the_checkpoint_are_a_note(copy: Path):
    shutil.copy(copy / "model.safetensors", copy / "model-00001-of-00002.safetensors")

    assert ailments(copy)["stray-file"].details == ("model-00001-of-00002.safetensors",)


def test_a_checkpoint_without_configuration_is_found(copy: Path):
    (copy / "config.json").unlink()

    assert troubles(copy) == {"no-config"}


def test_a_missing_weight_and_one_of_another_shape_are_listed(copy: Path):
    def harm(tensors: dict[str, torch.Tensor]) -> None:
        tensors.pop("qformer.layernorm.weight")
        tensors["query_tokens"] = torch.zeros(1, 4, 32)

    rewrite_tensors(copy / "model.safetensors", harm)

    found = ailments(copy)

    assert found["missing-weights"].details == ("qformer.layernorm.weight",)
    assert "query_tokens (1, 4, 32) for (1, 3, 32)" in found["shape"].details


def test_weights_that_belong_to_no_layer_are_a_note(copy: Path):
    rewrite_tensors(copy / "model.safetensors", lambda t: t.update({"another.weight": torch.zeros(2)}))

    assert ailments(copy)["unused-weights"].details == ("another.weight",)


def test_a_t5_in_float16_is_found(copy: Path):
    def halved(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    rewrite_tensors(copy / "model.safetensors", halved)

    assert troubles(copy) == {"fp16"}


def test_another_processor_class_is_found_and_mended(copy: Path):
    edited(copy / "processor_config.json", processor_class="BlipProcessor")
    before = contents(copy)
    assert troubles(copy) == {"processor-class"}

    assert ailments(copy, fix=True)["processor-class"].mended

    assert changed_files(before, copy) == {"processor_config.json"}
    assert json.loads((copy / "processor_config.json.before-doctor").read_text())["processor_class"] == "BlipProcessor"
    assert ailments(copy) == {}


def test_too_few_image_positions_are_found_and_mended(copy: Path):
    edited(copy / "processor_config.json", num_query_tokens=2)
    before = contents(copy)
    assert troubles(copy) == {"positions"}

    assert ailments(copy, fix=True)["positions"].mended

    assert changed_files(before, copy) == {"processor_config.json"}
    assert json.loads((copy / "processor_config.json").read_text())["num_query_tokens"] == 3
    assert ailments(copy) == {}


def test_an_old_layout_is_a_note_and_written_down_on_request(copy: Path):
    image = json.loads((copy / "config.json").read_text())["image_token_index"]
    without_key(copy / "config.json", "image_token_index")
    without_key(copy / "processor_config.json", "num_query_tokens")
    before = contents(copy)
    assert {finding.severity for finding in ailments(copy).values()} == {"note"}

    ailments(copy, fix=True)

    assert changed_files(before, copy) == {"config.json", "processor_config.json"}
    assert json.loads((copy / "config.json").read_text())["image_token_index"] == image
    assert ailments(copy) == {}


def test_nothing_is_changed_without_fix(copy: Path):
    edited(copy / "processor_config.json", num_query_tokens=2)
    before = contents(copy)

    ailments(copy)

    assert not changed_files(before, copy)


def test_what_the_hub_cache_links_to_is_never_changed(copy: Path):
    file, blob = copy / "processor_config.json", copy / "blob"
    edited(file, num_query_tokens=2)
    file.rename(blob)
    file.symlink_to(blob)

    assert not ailments(copy, fix=True)["positions"].mended


@pytest.mark.parametrize(
    ("file", "changes", "ailment"),
    [
        ("config.json", {"model_type": "instructblip"}, "other-model"),
        ("config.json", {"architectures": ["Blip2ForImageTextRetrieval"]}, "other-class"),
        ("config.json", {"quantization_config": {"load_in_8bit": True}}, "quantised"),
        (
            "config.json",
            {"vision_config": {"hidden_size": "wide", "model_type": "blip_2_vision_model"}},
            "config-unusable",
        ),
        ("config.json", {"image_token_index": 7}, "processor-unreadable"),
        ("config.json", {"auto_map": {"AutoModel": "mine.Model"}}, "code"),
        ("config.json", {"transformers_version": "99.1.0"}, "versions"),
        ("tokenizer_config.json", {"pad_token": "</s>"}, "special-tokens"),
    ],
)
def test_what_a_configuration_says_is_judged(
    file: str, changes: dict[str, object], ailment: str, tiny_checkpoint: Path, tmp_path: Path
):
    assert ailment in ailments(changed_copy(tiny_checkpoint, tmp_path / "other", file, **changes))


def test_another_layer_norm_than_the_published_is_a_note(copy: Path):
    vision = json.loads((copy / "config.json").read_text())["vision_config"]
    edited(copy / "config.json", vision_config=vision | {"layer_norm_eps": 1e-5})

    assert ailments(copy)["layer-norm"].severity == "note"


@pytest.mark.parametrize(("kind", "found"), [("gelu", False), ("gelu_new", True)])
def test_another_activation_than_the_published_is_a_note(copy: Path, kind: str, found: bool):
    config = json.loads((copy / "config.json").read_text())
    vision = config["vision_config"] | {"hidden_size": 1408, "num_attention_heads": 16}
    text = config["text_config"] | {"dense_act_fn": kind, "feed_forward_proj": f"gated-{kind.removesuffix('_new')}"}
    edited(copy / "config.json", vision_config=vision, text_config=text)

    assert ("activation" in ailments(copy)) is found


def test_a_t5_that_cannot_generate_is_found(copy: Path):
    text = json.loads((copy / "config.json").read_text())["text_config"]
    edited(copy / "config.json", text_config=text | {"num_decoder_layers": 3})

    assert "cannot-generate" in ailments(copy)


@pytest.mark.parametrize(
    ("changes", "ailment"),
    [
        ({"size": {"height": 48, "width": 48}}, "image-size"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "normalisation"),
        ({"image_processor_type": "ViTImageProcessorPil"}, "image-processor"),
    ],
)
def test_pictures_made_for_another_model_are_found(copy: Path, changes: dict[str, object], ailment: str):
    file = copy / "processor_config.json"
    images = json.loads(file.read_text())["image_processor"]
    edited(file, image_processor=images | changes)

    assert troubles(copy) == {ailment}


def test_a_tokenizer_of_another_model_is_found(copy: Path):
    text = json.loads((copy / "config.json").read_text())["text_config"]
    edited(copy / "config.json", text_config=text | {"vocab_size": 40})

    assert {"vocabulary", "processor-unreadable"} & troubles(copy)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"model": {}, "added_tokens": 3'])
def test_damage_to_a_small_file_is_found(copy: Path, file: str, content: bytes):
    (copy / file).write_bytes(content)

    assert troubles(copy)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer.json"])
def test_a_small_file_that_is_gone_is_found(copy: Path, file: str):
    (copy / file).unlink()

    assert troubles(copy)
