"""Every ailment of an adapter, planted on one of a tiny base and found."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from captioncrafter.model import lora
from patients import ailments, changed_files, contents, troubles, write_adapter
from tiny import load_tiny, rewrite_tensors, write_tiny_checkpoint

WEIGHTS, CONFIG, CAPTIONING = "adapter_model.safetensors", "adapter_config.json", "captioning.json"


@pytest.fixture(scope="module")
def sound(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tiny_checkpoint, tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "adapter"))


def edit(file: Path, **changes: object) -> None:
    """Changes keys of a JSON file; None takes one out."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def rename_weights(adapter: Path, old: str, new: str) -> None:
    """Other names for the adapter's weights."""

    def renamed(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    rewrite_tensors(adapter / WEIGHTS, renamed)


def test_nothing_is_found_of_a_sound_adapter(sound: Path):
    assert ailments(sound) == {}


@pytest.mark.parametrize("options", [{"use_dora": True}, {"preset": "full-bridge"}, {"init": "pissa"}])
def test_no_kind_of_adapter_that_is_trained_here_is_called_wrong(
    tiny_checkpoint: Path, tmp_path: Path, options: dict[str, object]
):
    assert troubles(write_adapter(tiny_checkpoint, tmp_path / "adapter", **options)) == set()


def test_an_adapter_of_another_base_is_found_though_it_would_load(sound: Path, tmp_path: Path, adapter: Path):
    edit(adapter / CAPTIONING, base=str(write_tiny_checkpoint(tmp_path / "other", seed=1)))
    edit(adapter / CONFIG, base_model_name_or_path=str(tmp_path / "other"))

    assert troubles(adapter) == {"base-mismatch"}


def test_two_files_that_name_different_bases_are_found(adapter: Path):
    edit(adapter / CONFIG, base_model_name_or_path="somebody/else")

    assert troubles(adapter) == {"base-mismatch"}


def test_an_adapter_of_a_base_of_another_width_is_found(adapter: Path, tmp_path: Path):
    wide = write_tiny_checkpoint(tmp_path / "wide", text_width=48)
    edit(adapter / CAPTIONING, base=str(wide))
    edit(adapter / CONFIG, base_model_name_or_path=str(wide))

    assert {"shape", "base-mismatch"} <= troubles(adapter)


def test_a_base_that_is_not_to_be_had_is_found(adapter: Path):
    edit(adapter / CAPTIONING, base="/no/such/folder")
    edit(adapter / CONFIG, base_model_name_or_path="/no/such/folder")

    assert troubles(adapter) == {"base-absent"}


def test_whether_the_base_is_the_one_is_left_open_where_its_weights_are_not_here(
    adapter: Path, tiny_checkpoint: Path, tmp_path: Path
):
    small = shutil.copytree(tiny_checkpoint, tmp_path / "small", ignore=shutil.ignore_patterns("*.safetensors"))
    edit(adapter / CAPTIONING, base=str(small))
    edit(adapter / CONFIG, base_model_name_or_path=str(small))

    assert {name: finding.severity for name, finding in ailments(adapter).items()} == {"base-not-here": "note"}


def test_an_adapter_that_names_no_base_is_found(adapter: Path):
    (adapter / CAPTIONING).unlink()
    edit(adapter / CONFIG, base_model_name_or_path=None)

    assert troubles(adapter) == {"base-unknown", "prompt-unknown"}


def test_one_dead_target_beside_living_ones_is_found_with_the_layers_listed(adapter: Path):
    edit(adapter / CONFIG, target_modules=["q", "v", "q_prj"])

    found = ailments(adapter)["dead-targets"]

    assert '"q_prj"' in found.what
    assert "language_model.decoder.block.*.layer.*.SelfAttention.q (2 layers)" in found.details


def test_a_pattern_that_matches_nothing_is_found(adapter: Path):
    edit(adapter / CONFIG, target_modules=r"model\.q_proj")

    assert "dead-targets" in troubles(adapter)


def test_layers_that_the_base_does_not_have_are_listed(adapter: Path):
    rename_weights(adapter, "decoder.block.1", "decoder.block.7")

    found = ailments(adapter)["stray-layers"]

    assert any("decoder.block.*" in line for line in found.details)


def test_an_adapter_saved_from_the_language_half_alone_is_mended(sound: Path, adapter: Path):
    rename_weights(adapter, "base_model.model.language_model.", "base_model.model.")
    edit(adapter / CONFIG, target_modules=["q", "v"])
    before = contents(adapter)
    assert troubles(adapter) == {"half-model"}

    assert ailments(adapter, fix=True)["half-model"].mended

    assert changed_files(before, adapter) == {WEIGHTS, CONFIG}
    assert ailments(adapter) == {}
    ours, stock = lora.stored_adapter(adapter), lora.stored_adapter(sound)
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


def test_a_mended_adapter_loads(adapter: Path, tiny_checkpoint: Path):
    rename_weights(adapter, "base_model.model.language_model.", "base_model.model.")
    edit(adapter / CONFIG, target_modules=r"(?:encoder|decoder)\..*\.(?:q|v)")
    ailments(adapter, fix=True)

    lora.load_adapter(load_tiny(tiny_checkpoint)[2], adapter)


def test_weights_that_are_missing_for_what_is_configured_are_found(adapter: Path):
    rewrite_tensors(adapter / WEIGHTS, lambda tensors: tensors.pop(next(iter(tensors))))

    assert troubles(adapter) == {"half-adapter"}


def test_another_rank_than_configured_is_found(adapter: Path):
    edit(adapter / CONFIG, r=4)

    assert troubles(adapter) == {"shape"}


def test_weights_that_are_not_numbers_are_found(adapter: Path):
    rewrite_tensors(adapter / WEIGHTS, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))

    assert troubles(adapter) == {"not-finite"}


def test_an_adapter_that_changes_nothing_is_found(adapter: Path):
    rewrite_tensors(adapter / WEIGHTS, lambda tensors: [t.zero_() for name, t in tensors.items() if ".lora_B." in name])

    assert troubles(adapter) == {"no-effect"}


def test_layers_that_learned_nothing_are_listed(adapter: Path):
    name = "base_model.model.language_model.decoder.block.0.layer.0.SelfAttention.q.lora_B.weight"
    rewrite_tensors(adapter / WEIGHTS, lambda tensors: tensors[name].zero_())

    assert ailments(adapter)["dead-layers"].details == ("language_model.decoder.block.0.layer.0.SelfAttention.q",)


def test_an_adapter_on_the_vision_half_too_is_a_note_with_its_layers(tiny_checkpoint: Path, tmp_path: Path):
    adapter = write_adapter(tiny_checkpoint, tmp_path / "adapter", parts=("vision_model", "language_model"))

    found = ailments(adapter)

    assert set(found) == {"reaches-front"}
    assert found["reaches-front"].details == ("vision_model.encoder.layers.*.self_attn.qkv (2 layers)",)


def test_a_prompt_that_nobody_kept_is_found(adapter: Path):
    (adapter / CAPTIONING).unlink()

    assert troubles(adapter) == {"prompt-unknown"}


@pytest.mark.parametrize(
    ("changes", "ailment"),
    [
        ({"prompt": "<image> a photo of"}, "positions"),
        ({"prompt": 3}, "prompt-unknown"),
        ({"precision": "fp16"}, "fp16"),
        ({"decoding": {"num_beams": 0}}, "decoding"),
        ({"decoding": 3}, "decoding"),
    ],
)
def test_what_goes_with_an_adapter_is_judged(adapter: Path, changes: dict[str, object], ailment: str):
    edit(adapter / CAPTIONING, **changes)

    assert troubles(adapter) == {ailment}


@pytest.mark.parametrize(
    ("changes", "ailment"),
    [
        ({"peft_type": "IA3"}, "other-adapter"),
        ({"init_lora_weights": "olora"}, "changed-base"),
        ({"peft_version": "99.0.0"}, "versions"),
        ({"r": "many"}, "adapter-unusable"),
    ],
)
def test_what_an_adapters_configuration_says_is_judged(adapter: Path, changes: dict[str, object], ailment: str):
    edit(adapter / CONFIG, **changes)

    assert ailment in ailments(adapter)


def test_a_pickled_adapter_is_found_and_not_opened(adapter: Path):
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")

    assert troubles(adapter) == {"pickle-only"}


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG, CAPTIONING])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe{", b"{}"])
def test_damage_to_a_file_is_found(adapter: Path, file: str, content: bytes):
    (adapter / file).write_bytes(content)

    assert troubles(adapter)


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_file_that_is_gone_is_found(adapter: Path, file: str):
    (adapter / file).unlink()

    assert troubles(adapter)
