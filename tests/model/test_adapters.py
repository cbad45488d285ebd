"""Whatever way an adapter started and grew, what is saved does the same on the untouched base with stock PEFT."""

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from captioncrafter import recipe
from captioncrafter.errors import CheckpointError, RecipeError
from captioncrafter.model import checkpoint, lora
from tiny import load_tiny, rewrite_tensors, write_tiny_opt_checkpoint

PRESETS = ("fast", "efficient", "quality", "full-bridge")
INITS = ("kaiming", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "mica")
CHANGING = ("pissa", "olora")

WAYS = [
    {"preset": "full-bridge", "init": init, "use_rslora": rslora, "use_dora": dora}
    for init, rslora, dora in itertools.product(INITS, (False, True), (False, True))
    if not (init == "mica" and dora)
] + [{"preset": preset, "init": init} for preset, init in itertools.product(PRESETS[:3], ("kaiming", "pissa"))]


@pytest.fixture(scope="module")
def t5(tiny_checkpoint: Path):
    return load_tiny(tiny_checkpoint)


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory):
    folder = write_tiny_opt_checkpoint(tmp_path_factory.mktemp("opt") / "blip2-opt")
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    return checkpoint.find(str(folder)), None, model


def settings(**options: Any) -> recipe.Lora:
    return recipe.Lora(rank=4, alpha=8.0, dropout=0.0, **options)


def inputs(model) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    image = model.config.image_token_index
    given = {
        "pixel_values": torch.randn(2, 3, 32, 32, generator=draw),
        "input_ids": torch.tensor([[image] * 3 + [3, 38, 6, 1]] * 2),
    }
    if not model.config.use_decoder_only_language_model:
        given["decoder_input_ids"] = torch.tensor([[0, 5, 6], [0, 9, 8]])
    return given


def logits(model) -> Tensor:
    return model(**inputs(model)).logits.float()


def train_one_step(tuned) -> None:
    """One SGD step, large enough to move the logits, on every weight that trains."""
    parameters = list(lora.trainable(tuned).values())
    loss = logits(tuned).log_softmax(-1)[..., 7].mean()
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.data -= 0.5 * gradient / gradient.norm().clamp(min=1e-6)


def saved_after_a_step(found, options: recipe.Lora, folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the base, of the fresh adapter, and of the one trained for a step, which lies in `folder`."""
    base, _, model = found
    model = copy.deepcopy(model)
    before = logits(model).detach()
    tuned = lora.attach(model, options, seed=0).eval()
    fresh = logits(tuned).detach()
    train_one_step(tuned)
    lora.save_adapter(tuned, base, folder)
    return before, fresh, logits(tuned).detach()


def name_of(way: dict[str, Any]) -> str:
    return "-".join([*(key[4:] for key, on in way.items() if on is True), way["preset"], way["init"]])


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_stock_peft_makes_of_the_saved_adapter_what_was_trained(t5, tiny_checkpoint: Path, tmp_path: Path, way):
    options = settings(**way)

    before, fresh, trained = saved_after_a_step(t5, options, tmp_path)

    stock = Blip2ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(stock, tmp_path).eval()
    theirs = logits(tuned)
    assert (trained - before).abs().max() > 0.05
    if lora.exact_start(tuned, options):
        assert torch.equal(fresh, before)
    torch.testing.assert_close(fresh, before, rtol=1e-4, atol=1e-4)
    if way["init"].startswith(CHANGING):
        torch.testing.assert_close(theirs, trained, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(theirs, trained)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("init", ["kaiming", "olora"])
def test_the_same_holds_over_a_decoder_only_language_model(opt, tmp_path: Path, preset: str, init: str):
    _, fresh, trained = saved_after_a_step(opt, settings(preset=preset, init=init), tmp_path)

    stock = Blip2ForConditionalGeneration.from_pretrained(opt[0].folder, dtype=torch.float32)
    theirs = logits(PeftModel.from_pretrained(stock, tmp_path).eval())

    assert (trained - fresh).abs().max() > 0.05
    torch.testing.assert_close(theirs, trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", [{"preset": "full-bridge"}, {"preset": "quality", "use_dora": True}, {"init": "pissa"}])
def test_loading_and_merging_keep_what_was_trained(t5, tmp_path: Path, way):
    _, _, trained = saved_after_a_step(t5, settings(**way), tmp_path)

    loaded = lora.load_adapter(copy.deepcopy(t5[2]), tmp_path)
    ours = logits(loaded).detach()
    merged = lora.merge(loaded)

    torch.testing.assert_close(ours, trained, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-4)
    assert type(merged.language_projection) is torch.nn.Linear


def test_a_model_in_training_merges_too(t5):
    tuned = lora.attach(copy.deepcopy(t5[2]), settings(preset="full-bridge", init="pissa", use_dora=True), seed=0)
    train_one_step(tuned.eval())
    trained = logits(tuned).detach()

    torch.testing.assert_close(logits(lora.merge(tuned)), trained, rtol=1e-4, atol=1e-4)


def test_an_adapter_over_a_changed_base_is_written_at_twice_the_rank(t5, tmp_path: Path):
    saved_after_a_step(t5, settings(init="pissa", use_rslora=True), tmp_path)

    written = json.loads((tmp_path / lora.ADAPTER_CONFIG).read_text())
    assert (written["r"], written["init_lora_weights"]) == (8, True)
    assert written["lora_alpha"] / 8**0.5 == pytest.approx(8.0 / 4**0.5)


def test_saving_leaves_the_adapter_in_memory_as_it_trains(t5, tmp_path: Path):
    tuned = lora.attach(copy.deepcopy(t5[2]), settings(init="pissa"), seed=0)
    config = tuned.peft_config["default"]

    lora.save_adapter(tuned, t5[0], tmp_path / "one")
    lora.save_adapter(tuned, t5[0], tmp_path / "two")

    assert tuned.peft_config["default"] is config
    assert (config.r, config.init_lora_weights) == (4, "pissa")
    one, two = lora.stored_adapter(tmp_path / "one"), lora.stored_adapter(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("init", INITS)
def test_attaching_again_gives_the_same_bits_and_the_same_base(t5, init: str):
    def attached() -> dict[str, Tensor]:
        return dict(lora.attach(copy.deepcopy(t5[2]), settings(init=init), seed=5).named_parameters())

    torch.manual_seed(1)
    one = attached()
    torch.manual_seed(2)
    other = attached()

    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("init", INITS)
def test_no_start_touches_the_global_random_state(t5, init: str):
    before = torch.get_rng_state()

    lora.attach(copy.deepcopy(t5[2]), settings(init=init), seed=5)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("way", [{"preset": "full-bridge"}, {"use_dora": True}, {"init": "mica"}])
def test_disabling_a_trained_adapter_gives_the_base_to_the_last_bit(t5, way):
    model = copy.deepcopy(t5[2])
    before = logits(model).detach()
    tuned = lora.attach(model, settings(**way), seed=0).eval()
    train_one_step(tuned)

    with tuned.disable_adapter():
        without = logits(tuned)

    assert torch.equal(without, before)
    assert not torch.allclose(logits(tuned), before, atol=0.01)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dora", [False, True])
def test_what_trains_is_float32_over_a_bfloat16_base_and_starts_as_the_base(tiny_checkpoint: Path, init: str, dora):
    if init == "mica" and dora:
        return
    model = load_tiny(tiny_checkpoint, dtype=torch.bfloat16)[2]
    before = logits(model).detach()

    tuned = lora.attach(model, settings(preset="full-bridge", init=init, use_dora=dora), seed=0).eval()

    parameters = lora.trainable(tuned)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert {p.dtype for name, p in tuned.named_parameters() if name not in parameters} <= {
        torch.bfloat16,
        torch.float32,
    }
    spread = (logits(tuned) - before).norm() / before.norm()
    assert spread < 0.03


def test_dora_over_a_bfloat16_base_starts_as_the_base_to_the_last_bit(tiny_checkpoint: Path):
    model = load_tiny(tiny_checkpoint, dtype=torch.bfloat16)[2]
    before = logits(model)

    tuned = lora.attach(model, settings(preset="quality", use_dora=True), seed=0).eval()

    assert torch.equal(logits(tuned), before)


def test_merging_brings_the_trained_projection_to_the_precision_of_the_base(tiny_checkpoint: Path):
    model = load_tiny(tiny_checkpoint, dtype=torch.bfloat16)[2]

    merged = lora.merge(lora.attach(model, settings(preset="full-bridge"), seed=0))

    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


def test_the_trained_projection_is_a_float32_copy_over_a_frozen_base(tiny_checkpoint: Path):
    model = load_tiny(tiny_checkpoint, dtype=torch.bfloat16)[2]

    tuned = lora.attach(model, settings(train_projection=True), seed=0)

    wrapped = tuned.get_base_model().language_projection
    assert wrapped.original_module.weight.dtype == torch.bfloat16
    assert not wrapped.original_module.weight.requires_grad
    assert wrapped.modules_to_save["default"].weight.dtype == torch.float32
    assert wrapped.weight.dtype == torch.float32


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_that_train_are_those_that_were_planned(t5, opt, preset: str):
    for _, _, model in (t5, opt):
        planned = lora.planned_layers(model.config, settings(preset=preset))

        tuned = lora.attach(copy.deepcopy(model), settings(preset=preset), seed=0)

        assert list(lora.trained_layers(tuned)) == planned
        assert ("language_projection" in planned) == (preset == "full-bridge")


def test_a_vision_half_without_weights_is_no_hindrance(t5, tmp_path: Path):
    model = copy.deepcopy(t5[2])
    model.vision_model.to("meta")

    tuned = lora.attach(model, settings(preset="full-bridge", init="pissa"), seed=0)
    lora.save_adapter(tuned, t5[0], tmp_path)

    assert set(lora.stored_layers(tmp_path)) == set(lora.trained_layers(tuned))


def test_an_adapter_without_its_trained_projection_is_refused(t5, tmp_path: Path):
    saved_after_a_step(t5, settings(preset="full-bridge"), tmp_path)
    rewrite_tensors(
        tmp_path / lora.ADAPTER_WEIGHTS, lambda tensors: tensors.pop("base_model.model.language_projection.weight")
    )

    with pytest.raises(CheckpointError, match=r"cannot be loaded .*language_projection\.weight"):
        lora.load_adapter(copy.deepcopy(t5[2]), tmp_path)


def test_an_adapter_without_one_of_its_magnitudes_is_refused(t5, tmp_path: Path):
    saved_after_a_step(t5, settings(use_dora=True), tmp_path)
    rewrite_tensors(
        tmp_path / lora.ADAPTER_WEIGHTS,
        lambda tensors: tensors.pop(next(name for name in tensors if "magnitude" in name)),
    )

    with pytest.raises(CheckpointError, match=r"1 of the \d+ weights that adapter_config.json asks for"):
        lora.load_adapter(copy.deepcopy(t5[2]), tmp_path)


def test_weights_that_the_configuration_has_no_use_for_are_refused(t5, tmp_path: Path):
    saved_after_a_step(t5, settings(preset="full-bridge"), tmp_path)
    config = tmp_path / lora.ADAPTER_CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | {"modules_to_save": None}))

    with pytest.raises(CheckpointError, match=r"has no use for 2 of the \d+ weights"):
        lora.load_adapter(copy.deepcopy(t5[2]), tmp_path)


@pytest.mark.parametrize("init", ["pissa", "olora", "mica"])
def test_a_start_from_the_weights_allows_no_rank_above_theirs(t5, init: str):
    with pytest.raises(RecipeError, match=r"rank 64 with init .*\.q allows 32 at most"):
        lora.attach(copy.deepcopy(t5[2]), recipe.Lora(rank=64, init=init), seed=0)  # pyright: ignore[reportArgumentType]


def test_a_start_that_changes_a_shared_weight_is_refused(opt):
    with pytest.raises(RecipeError, match=r"would change language_model\.lm_head, whose weight is also"):
        lora.attach(copy.deepcopy(opt[2]), settings(init="pissa", targets=("lm_head",)), seed=0)


def test_a_tuned_head_that_shares_its_weight_is_not_merged(opt):
    tuned = lora.attach(copy.deepcopy(opt[2]), settings(targets=("lm_head",)), seed=0)

    with pytest.raises(CheckpointError, match="shares with its embedding"):
        lora.merge(tuned)


def test_nothing_is_merged_into_a_quantised_base(t5):
    tuned = lora.attach(copy.deepcopy(t5[2]), settings(), seed=0)
    packed = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    tuned.get_base_model().vision_model.encoder.layers[0].self_attn.qkv.weight = packed

    with pytest.raises(CheckpointError, match="a quantised base holds no merged adapter"):
        lora.merge(tuned)


def test_only_a_start_that_changes_the_base_has_a_fingerprint(t5):
    def fingerprint(init: str, seed: int) -> str:
        return lora.start_fingerprint(lora.attach(copy.deepcopy(t5[2]), settings(init=init), seed=seed))

    assert fingerprint("kaiming", 0) == ""
    assert fingerprint("pissa", 0) == fingerprint("pissa", 1)
    assert fingerprint("pissa", 0) != fingerprint("olora", 0)
