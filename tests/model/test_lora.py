"""LoRA lands on the layers that were named and on no other, and what is saved loads with stock PEFT."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from captioncrafter import recipe
from captioncrafter.errors import CheckpointError, RecipeError
from captioncrafter.model import lora
from captioncrafter.model.checkpoint import Checkpoint
from tiny import load_tiny, rewrite_tensors, write_tiny_checkpoint

SETTINGS = recipe.Lora(rank=2)


@pytest.fixture
def model(tiny_checkpoint: Path):
    return load_tiny(tiny_checkpoint)[2]


@pytest.fixture
def saved(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of an adapter with B other than zero."""
    base, _, model = load_tiny(tiny_checkpoint)
    tuned = lora.attach(model, SETTINGS, seed=0)
    draw = torch.Generator().manual_seed(2)
    for name, parameter in lora.trainable(tuned).items():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.5, generator=draw)
    lora.save_adapter(tuned, base, tmp_path / "adapter")
    return tmp_path / "adapter"


def inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {
        "pixel_values": torch.randn(2, 3, 32, 32, generator=draw),
        "input_ids": torch.tensor([[45, 45, 45, 3, 38, 6, 1]] * 2),
        "decoder_input_ids": torch.tensor([[0, 5, 6], [0, 9, 8]]),
    }


@torch.no_grad()
def logits(model) -> Tensor:
    return model(**inputs()).logits


def test_a_dotted_target_reaches_only_the_layers_that_end_in_it(model):
    names = lora.target_layers(model, recipe.Lora(targets=("EncDecAttention.q",)))

    assert names == [f"language_model.decoder.block.{n}.layer.1.EncDecAttention.q" for n in range(2)]


def test_a_part_bounds_the_targets(model):
    names = lora.target_layers(model, recipe.Lora(parts=("language_model.encoder",)))

    assert len(names) == 4
    assert all(name.startswith("language_model.encoder.") for name in names)


def test_no_target_matches_by_the_end_of_a_word(model):
    with pytest.raises(RecipeError, match='"i_0" matches no layer'):
        lora.target_layers(model, recipe.Lora(targets=("i_0",)))


def test_the_adapter_lands_on_exactly_the_target_layers(model):
    settings = recipe.Lora(rank=2, targets=("q", "wo"), parts=("language_model.decoder",))
    expected = lora.target_layers(model, settings)

    tuned = lora.attach(model, settings, seed=0)

    assert list(dict.fromkeys(lora.layer_of(name) for name in lora.trainable(tuned))) == expected


def test_each_target_must_match_not_just_one_of_them(model):
    with pytest.raises(RecipeError, match=r'lora\.targets "q_prj" matches no layer.*Closest: "q" \(6 layers\)'):
        lora.attach(model, recipe.Lora(targets=("q", "q_prj")), seed=0)


def test_a_target_that_stands_outside_of_the_parts_only_is_refused_and_said(model):
    with pytest.raises(RecipeError, match=r'"fc1" matches no layer of language_model \(though 2 outside of it\)'):
        lora.target_layers(model, recipe.Lora(targets=("fc1",)))


def test_only_lora_trains_in_float32_over_a_bfloat16_base(tiny_checkpoint: Path):
    tuned = lora.attach(load_tiny(tiny_checkpoint, dtype=torch.bfloat16)[2], SETTINGS, seed=0)

    parameters = lora.trainable(tuned)

    assert all(".lora_A." in name or ".lora_B." in name for name in parameters)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert {p.dtype for p in tuned.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_a_fresh_adapter_leaves_the_base_as_it_is_to_the_last_bit(model):
    base = logits(model)

    tuned = lora.attach(model, SETTINGS, seed=0).eval()

    assert torch.equal(logits(tuned), base)


def test_the_seed_alone_decides_the_fresh_adapter(tiny_checkpoint: Path):
    def drawn(seed: int) -> list[Tensor]:
        return list(lora.trainable(lora.attach(load_tiny(tiny_checkpoint)[2], SETTINGS, seed=seed)).values())

    torch.manual_seed(8)
    one = drawn(5)
    torch.manual_seed(9)
    same, other = drawn(5), drawn(6)

    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_attaching_leaves_the_global_random_state(model):
    before = torch.get_rng_state()

    lora.attach(model, SETTINGS, seed=5)

    assert torch.equal(torch.get_rng_state(), before)


def test_stock_peft_loads_the_adapter_bit_for_bit_without_a_word(
    tiny_checkpoint: Path, saved: Path, caplog: pytest.LogCaptureFixture
):
    stock = Blip2ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    caplog.clear()

    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        logging.getLogger("transformers").addHandler(caplog.handler)
        tuned = PeftModel.from_pretrained(stock, saved)
        logging.getLogger("transformers").removeHandler(caplog.handler)

    loaded = {name.replace(".default", ""): p for name, p in tuned.named_parameters() if ".lora_" in name}
    stored = lora.stored_adapter(saved)
    assert [str(one.message) for one in said if "is_gradient_checkpointing" not in str(one.message)] == []
    assert caplog.messages == []
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def test_the_loaded_adapter_computes_what_stock_peft_computes(tiny_checkpoint: Path, saved: Path):
    stock = Blip2ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    base = logits(stock.eval())

    ours = lora.load_adapter(load_tiny(tiny_checkpoint)[2], saved)
    theirs = PeftModel.from_pretrained(stock, saved).eval()

    assert torch.equal(logits(ours), logits(theirs))
    assert not torch.allclose(logits(ours), base, atol=0.1)


def test_a_loaded_adapter_is_frozen_and_in_eval_mode(model, saved: Path):
    tuned = lora.load_adapter(model, saved)

    assert lora.trainable(tuned) == {}
    assert not any(module.training for module in tuned.modules())


def test_the_adapter_names_its_base_as_anyone_would_load_it(tiny_checkpoint: Path, tmp_path: Path):
    hub = Checkpoint("Salesforce/blip2-flan-t5-xl", "0eb0d3b4", tiny_checkpoint, on_hub=True)
    tuned = lora.attach(load_tiny(tiny_checkpoint)[2], SETTINGS, seed=0)

    lora.save_adapter(tuned, hub, tmp_path / "adapter")

    named = json.loads((tmp_path / "adapter" / lora.ADAPTER_CONFIG).read_text())
    assert (named["base_model_name_or_path"], named["revision"]) == ("Salesforce/blip2-flan-t5-xl", "0eb0d3b4")


def test_an_adapter_of_a_folder_names_the_whole_path(tiny_checkpoint: Path, saved: Path):
    named = json.loads((saved / lora.ADAPTER_CONFIG).read_text())

    assert (named["base_model_name_or_path"], named["revision"]) == (str(tiny_checkpoint.resolve()), None)


def test_an_adapter_saved_from_the_language_half_alone_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    half = get_peft_model(load_tiny(tiny_checkpoint)[2].language_model, LoraConfig(r=2, target_modules=["q", "v"]))
    half.save_pretrained(str(tmp_path / "half"), save_embedding_layers=False)

    with pytest.raises(CheckpointError, match=r"24 of the adapter's 24 weights belong to no layer of this model"):
        lora.load_adapter(load_tiny(tiny_checkpoint)[2], tmp_path / "half")


def test_an_adapter_of_a_larger_model_is_refused(tmp_path: Path, saved: Path):
    other = load_tiny(write_tiny_checkpoint(tmp_path / "other"))[2]
    del other.language_model.decoder.block[1]

    with pytest.raises(CheckpointError, match="8 of the adapter's 24 weights belong to no layer of this model"):
        lora.load_adapter(other, saved)


def drop_one(tensors: dict[str, Tensor]) -> None:
    tensors.pop(sorted(tensors)[0])


def reshape_one(tensors: dict[str, Tensor]) -> None:
    tensors[sorted(tensors)[0]] = torch.zeros(2, 40)


@pytest.mark.parametrize("damage", [drop_one, reshape_one, dict.clear], ids=["lacking", "another shape", "empty"])
def test_an_adapter_that_is_not_whole_is_refused(model, saved: Path, damage: Callable[[dict[str, Tensor]], None]):
    rewrite_tensors(saved / lora.ADAPTER_WEIGHTS, damage)

    with pytest.raises(CheckpointError, match=str(saved)):
        lora.load_adapter(model, saved)


def test_a_truncated_adapter_is_refused(model, saved: Path):
    file = saved / lora.ADAPTER_WEIGHTS
    file.write_bytes(file.read_bytes()[:-10])

    with pytest.raises(CheckpointError, match="the adapter is damaged"):
        lora.load_adapter(model, saved)


@pytest.mark.parametrize("content", ["{", '{"peft_type": "NONSENSE"}', "[]"], ids=["cut", "unknown kind", "a list"])
def test_an_unusable_adapter_configuration_is_refused(model, saved: Path, content: str):
    (saved / lora.ADAPTER_CONFIG).write_text(content)

    with pytest.raises(CheckpointError, match=str(saved)):
        lora.load_adapter(model, saved)


def test_a_folder_without_adapter_is_refused(model, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no adapter .*Give the adapter folder of a run"):
        lora.load_adapter(model, tmp_path)


def test_merging_changes_nothing_but_rounding(model, saved: Path):
    tuned = lora.load_adapter(model, saved)
    before = logits(tuned)

    merged = lora.merge(tuned)

    assert type(merged) is Blip2ForConditionalGeneration
    torch.testing.assert_close(logits(merged), before, rtol=1e-4, atol=1e-4)


def test_merging_leaves_the_head_untied(tiny_checkpoint: Path, saved: Path):
    base = load_tiny(tiny_checkpoint)[2].get_output_embeddings().weight

    merged = lora.merge(lora.load_adapter(load_tiny(tiny_checkpoint)[2], saved))

    assert torch.equal(merged.get_output_embeddings().weight, base)
    assert not torch.equal(merged.get_output_embeddings().weight, merged.get_input_embeddings().weight)


def test_a_head_that_merging_ties_is_refused(model, saved: Path, monkeypatch: pytest.MonkeyPatch):
    def tie_as_some_version_may(tuned: PeftModel):
        merged = tuned.get_base_model()
        merged.language_model.lm_head.weight = merged.language_model.shared.weight
        return merged

    tuned = lora.load_adapter(model, saved)
    monkeypatch.setattr(PeftModel, "merge_and_unload", tie_as_some_version_may, raising=False)

    with pytest.raises(CheckpointError, match="merging tied the output head"):
        lora.merge(tuned)


def test_a_merged_model_saved_by_transformers_loads_with_its_own_head(
    tiny_checkpoint: Path, saved: Path, tmp_path: Path
):
    _, processor, model = load_tiny(tiny_checkpoint)
    merged = lora.merge(lora.load_adapter(model, saved))

    merged.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")

    torch.testing.assert_close(logits(load_tiny(tmp_path / "merged")[2]), logits(merged), rtol=0, atol=0)
