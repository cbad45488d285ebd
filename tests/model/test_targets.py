"""What a recipe's `[lora]` names is what is reached, in both families of language models, and nothing else."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration

from captioncrafter import recipe
from captioncrafter.errors import RecipeError
from captioncrafter.model import targets
from tiny import write_tiny_opt_checkpoint


@pytest.fixture(scope="module")
def t5(tiny_checkpoint: Path):
    return on_meta(tiny_checkpoint)


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory):
    return on_meta(write_tiny_opt_checkpoint(tmp_path_factory.mktemp("opt") / "blip2-opt"))


def on_meta(folder: Path):
    with torch.device("meta"):
        return Blip2ForConditionalGeneration(Blip2Config.from_pretrained(folder))


def reached(model, **options: Any) -> list[str]:
    return targets.target_layers(model, recipe.Lora(**options))


def ends(names: list[str]) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name in names}


def test_the_default_targets_are_the_query_and_value_layers_of_the_language_model_alone(t5):
    names = reached(t5)

    assert len(names) == 2 * 2 + 2 * 4  # two encoder layers with one attention, two decoder layers with two
    assert all(name.startswith("language_model.") and name.endswith((".q", ".v")) for name in names)


def test_fast_reaches_the_decoder_alone(t5):
    names = reached(t5, preset="fast")

    assert len(names) == 2 * 4
    assert all(name.startswith("language_model.decoder.") for name in names)


def test_quality_reaches_the_q_former_too(t5):
    names = reached(t5, preset="quality")

    inside = [name for name in names if name.startswith("qformer.")]
    assert ends(inside) == {"query", "value"}
    assert len(inside) == 2 * 3  # two layers, of which the first attends to the image too
    assert names == [*inside, *reached(t5)]


def test_full_bridge_trains_the_projection_whole_besides(t5):
    lora = recipe.Lora(preset="full-bridge")

    assert targets.target_layers(t5, lora) == reached(t5, preset="quality")
    assert set(targets.planned_layers(t5.config, lora)) == {*reached(t5, preset="quality"), "language_projection"}


@pytest.mark.parametrize("preset", ["fast", "efficient"])
def test_a_decoder_only_language_model_is_its_own_decoder(opt, preset: str):
    names = reached(opt, preset=preset)

    assert len(names) == 2 * 2
    assert all(name.startswith("language_model.model.decoder.layers.") for name in names)
    assert ends(names) == {"q_proj", "v_proj"}


def test_quality_has_the_q_former_s_names_and_opt_s(opt):
    assert ends(reached(opt, preset="quality")) == {"query", "value", "q_proj", "v_proj"}


def test_naming_an_encoder_that_is_not_there_is_refused(opt):
    with pytest.raises(RecipeError, match=r"\(opt\) has no encoder"):
        reached(opt, parts=("language_model.encoder",))


def test_parts_take_the_place_of_the_preset_s(t5):
    names = reached(t5, preset="quality", parts=("language_model.encoder", "vision_model"))

    assert ends(names) == {"q", "v", "qkv"}
    assert all(name.startswith(("language_model.encoder.", "vision_model.")) for name in names)


def test_targets_take_the_place_of_the_preset_s(t5):
    assert ends(reached(t5, preset="quality", targets=("wo", "dense"))) == {"wo", "dense"}


def test_a_word_about_the_projection_takes_the_place_of_the_preset_s(t5):
    alone = targets.planned_layers(t5.config, recipe.Lora(preset="full-bridge", train_projection=False))
    added = targets.planned_layers(t5.config, recipe.Lora(preset="fast", train_projection=True))

    assert "language_projection" not in alone
    assert added[0] == "language_projection"


def test_the_order_is_the_model_s_whatever_the_order_of_the_words(t5):
    assert reached(t5, targets=("v", "q"), parts=("language_model", "language_model.decoder")) == reached(t5)


def test_a_pattern_matches_full_names(t5):
    names = reached(t5, pattern=r"vision_model\.encoder\.layers\.1\..*fc[12]|language_projection")

    assert names == [*(f"vision_model.encoder.layers.1.mlp.fc{n}" for n in (1, 2)), "language_projection"]


def test_a_pattern_that_matches_no_full_name_is_refused_with_what_has_it_inside(t5):
    with pytest.raises(RecipeError, match=r'"lm_hea" matches no linear.*"language_model\.lm_head" has it inside'):
        reached(t5, pattern="lm_hea")


def test_a_pattern_may_not_match_a_projection_that_is_trained_whole(t5):
    with pytest.raises(RecipeError, match="already trained whole"):
        reached(t5, preset="full-bridge", pattern="language_projection|.*lm_head")


@pytest.mark.parametrize("pattern", [r".*decoder\..*\.q", r"language_model\.decoder\..*"])
def test_peft_is_told_the_linear_layers_alone(t5, pattern: str):
    import re

    lora = recipe.Lora(pattern=pattern)

    told = targets.peft_pattern(t5, lora)

    assert [name for name, _ in t5.named_modules() if re.fullmatch(told, name)] == targets.target_layers(t5, lora)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": "a", "targets": ["q"]}, "pattern excludes parts and targets"),
        ({"pattern": "a", "parts": ["qformer"]}, "pattern excludes parts and targets"),
        ({"init": "orthogonal", "rank": 3}, "needs an even rank, not 3"),
        ({"init": "mica", "use_dora": True}, "init mica and use_dora exclude each other"),
        ({"init": "loftq"}, "input should be 'kaiming', 'gaussian'"),
    ],
)
def test_an_impossible_adapter_is_refused_when_the_recipe_is_read(options: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        recipe.build({"lora": options}, source="mine.toml")


@pytest.mark.parametrize("init", ["orthogonal", "pissa", "pissa_niter_16", "olora", "mica"])
@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_start_from_the_weights_is_refused_over_quantised_ones(init: Any, precision: str):
    with pytest.raises(ValueError, match=f'"{init}" needs unquantised weights, but model.precision is {precision}'):
        recipe.check_adapter(recipe.Lora(init=init), precision)


def test_dora_is_refused_over_eight_bit_weights_alone():
    recipe.check_adapter(recipe.Lora(use_dora=True), "nf4")

    with pytest.raises(ValueError, match=r"use_dora fails with model\.precision int8"):
        recipe.check_adapter(recipe.Lora(use_dora=True), "int8")


def test_the_layers_of_the_published_model_are_known_within_seconds(published_files: Path):
    config = Blip2Config(**json.loads((published_files / "config.json").read_text()))
    began = time.monotonic()

    names = targets.planned_layers(config, recipe.Lora(preset="full-bridge"))

    assert time.monotonic() - began < 10
    assert len(names) == 2 * (12 + 6) + 1 + 2 * (24 + 48)
