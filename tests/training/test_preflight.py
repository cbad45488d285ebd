"""Each check passes on a sound subject and stops one that is broken in just its way."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from captioncrafter.errors import CheckpointError, PreflightError
from captioncrafter.model import lora, weights
from captioncrafter.model.captioning import PackedCaptions
from captioncrafter.model.cut import Cut, deepest_cut
from captioncrafter.training import preflight
from captioncrafter.training.preflight import Subject, check
from captioncrafter.training.probe import Probe, observe, stock_loss
from trainees import CPU, PROMPT, Beginning

CUTS = {"fast": Cut.ENCODER, "efficient": Cut.QFORMER, "quality": Cut.VISION}


@dataclass
class Case:
    """What the checks are given; tests break it."""

    start: Beginning
    subject: Subject
    probe: Probe

    @property
    def model(self):
        return self.subject.model

    def check(self) -> dict[str, float | int]:
        return check(self.subject, self.probe)

    def look_again(self, features: Tensor | None) -> None:
        """Observes the same images anew, with other stored features."""
        old = self.probe
        pixels = self.start.pixels[: len(old.prompts)]
        self.probe = observe(self.model, old.cut, pixels, features, old.prompts, old.captions, CPU)


def case_of(
    start: Beginning,
    preset: str = "efficient",
    *,
    dtype: torch.dtype = torch.float32,
    images: int = 4,
    init: str = "kaiming",
) -> Case:
    model = copy.deepcopy(start.model).to(dtype)
    settings = start.options(preset=preset).lora.model_copy(update={"init": init})
    layers = tuple(lora.planned_layers(model.config, settings))
    cut = deepest_cut(model.config, layers)
    prompts, captions = start.prompts[:images], start.captions[:images]
    fresh = observe(model, cut, start.pixels[:images], None, prompts, captions, CPU)
    probe = observe(model, cut, start.pixels[:images], fresh.features.half(), prompts, captions, CPU)
    stock = stock_loss(model, probe, CPU)
    tuned = lora.attach(model, settings, seed=0)
    subject = Subject(
        tuned=tuned,
        target_layers=layers,
        stored=weights.stored_tensors(start.found.folder),
        name=start.found.name,
        stock_loss=stock,
        exact_start=lora.exact_start(tuned, settings),
        device=CPU,
    )
    return Case(start, subject, probe)


@pytest.fixture(scope="module")
def t5(tiny_checkpoint: Path) -> Beginning:
    return Beginning(tiny_checkpoint)


@pytest.fixture
def case(t5: Beginning) -> Case:
    return case_of(t5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("preset", "layers"), [("fast", 8), ("efficient", 12), ("quality", 12 + 6)])
def test_a_sound_subject_passes_and_is_measured(t5: Beginning, preset: str, layers: int, dtype: torch.dtype):
    case = case_of(t5, preset, dtype=dtype)

    measured = case.check()

    assert case.probe.cut is CUTS[preset]
    assert measured["adapted_layers"] == layers
    assert measured["trainable_parameters"] == layers * 2 * (32 + 32)
    assert measured["loss"] == pytest.approx(measured["stock_loss"], rel=3e-2 if dtype == torch.bfloat16 else 1e-3)
    assert measured["swapped_loss"] != measured["loss"]
    assert measured["feature_gradient_norm"] > 0


@pytest.mark.parametrize("preset", ["efficient", "quality", "full-bridge"])
def test_a_decoder_only_language_model_passes(opt: Beginning, preset: str):
    measured = case_of(opt, preset).check()

    assert measured["loss"] == pytest.approx(measured["stock_loss"], rel=1e-3)
    assert measured["swapped_loss"] != measured["loss"]


def test_a_projection_that_trains_in_float32_may_round_otherwise_than_a_bfloat16_base(t5: Beginning):
    case = case_of(t5, "full-bridge", dtype=torch.bfloat16)
    # As cuBLAS does: on an H200 the miniature's loss was 5.410834 with the base's projection, 5.410538 with its copy.
    projection = case.model.language_projection.original_module
    projection.register_forward_hook(lambda layer, given, projected: projected * (1 + 2**-7))

    assert case.check()["adapted_layers"] == 12 + 6 + 1


def test_a_projection_that_does_not_start_as_the_base_is_refused_in_float32(t5: Beginning):
    case = case_of(t5, "full-bridge")
    projection = case.model.language_projection.modules_to_save["default"]
    projection.register_forward_hook(lambda layer, given, projected: projected * (1 + 2**-7))

    with pytest.raises(PreflightError, match="the fresh adapter changes the base model's loss"):
        case.check()


@pytest.mark.parametrize("preset", ["fast", "efficient"])
def test_prompts_of_several_lengths_pass(tiny_checkpoint: Path, preset: str):
    mixed = Beginning(tiny_checkpoint, prompts=(PROMPT, "what is the colour of the dog"))

    assert case_of(mixed, preset).check()["adapted_layers"] > 0


@pytest.mark.parametrize("init", ["gaussian", "pissa", "olora"])
def test_other_starts_of_the_adapter_pass(t5: Beginning, init: str):
    assert case_of(t5, init=init).check()["adapted_layers"] == 12


def test_pixels_in_place_of_features_pass(t5: Beginning):
    case = case_of(t5)
    old = case.probe

    case.probe = observe(case.model, Cut.IMAGES, t5.pixels[:4], None, old.prompts, old.captions, CPU)

    assert case.check()["feature_difference"] == 0


def test_two_images_are_enough(t5: Beginning):
    assert case_of(t5, images=2).check()["adapted_layers"] > 0


def test_no_gradient_is_left_behind(case: Case):
    case.check()

    assert all(parameter.grad is None for parameter in case.subject.tuned.parameters())
    assert not any(module.training for module in case.subject.tuned.modules())


def test_images_of_the_same_captions_still_matter(tiny_checkpoint: Path):
    same = Beginning(tiny_checkpoint)
    same.captions[:] = [same.captions[0]] * len(same.captions)

    assert case_of(same).check()["feature_gradient_norm"] > 0


def a_stray_trainable_weight(case: Case) -> None:
    case.model.language_projection.weight.requires_grad_(True)


def a_target_layer_without_adapter(case: Case) -> None:
    case.subject = replace(case.subject, target_layers=(*case.subject.target_layers, "language_model.lm_head"))


def an_adapter_on_a_layer_that_was_not_meant(case: Case) -> None:
    case.subject = replace(case.subject, target_layers=case.subject.target_layers[:-1])


def a_frozen_adapter_on_a_target_layer(case: Case) -> None:
    for name, parameter in list(lora.trainable(case.subject.tuned).items())[:2]:
        assert ".lora_" in name
        parameter.requires_grad_(False)


def features_of_other_images(case: Case) -> None:
    case.look_again(case.probe.features.roll(1, dims=0))


def features_of_which_one_is_anothers(case: Case) -> None:
    features = case.probe.features.clone()
    features[0] = features[1]
    case.look_again(features)


def features_that_are_not_finite(case: Case) -> None:
    case.look_again(case.probe.features * float("nan"))


def features_of_another_cut(case: Case) -> None:
    case.look_again(case.probe.features[:, :1])


class Leaky(Probe):
    """Packs captions under a mask that lets each see those before it."""

    def packed(self, model) -> PackedCaptions:
        packed = super().packed(model)
        everything_before = torch.ones_like(packed.mask).tril()
        return replace(packed, mask=everything_before)


def a_mask_that_lets_captions_see_each_other(case: Case) -> None:
    case.probe = Leaky(**{field.name: getattr(case.probe, field.name) for field in fields(case.probe)})


def weights_that_changed_since_the_stock_model_was_asked(case: Case) -> None:
    weight = case.model.get_output_embeddings().weight
    case.subject = replace(case.subject, stored={})
    weight.data.mul_(1.1)


def a_stock_loss_that_is_not_finite(case: Case) -> None:
    case.subject = replace(case.subject, stock_loss=float("nan"))


def an_adapter_that_is_not_zero(case: Case) -> None:
    for name, parameter in lora.trainable(case.subject.tuned).items():
        if ".lora_B." in name:
            parameter.data.fill_(1e-3)


def a_projection_of_zeros(case: Case) -> None:
    case.model.language_projection.weight.data.zero_()
    case.look_again(None)
    case.subject = replace(case.subject, stock_loss=stock_loss(case.model, case.probe, CPU))


FAULTS = [
    (a_target_layer_without_adapter, "1 layers differ, language_model.lm_head first"),
    (an_adapter_on_a_layer_that_was_not_meant, "1 layers differ, "),
    (a_frozen_adapter_on_a_target_layer, "1 layers differ, "),
    (a_stray_trainable_weight, "1 layers differ, language_projection first"),
    (features_of_other_images, "stored features are not this model's"),
    (features_of_which_one_is_anothers, "stored features are not this model's"),
    (features_that_are_not_finite, "stored features are not this model's"),
    (features_of_another_cut, "stored features are not this model's"),
    (a_mask_that_lets_captions_see_each_other, "the training step's loss is"),
    (weights_that_changed_since_the_stock_model_was_asked, "the training step's loss is"),
    (a_stock_loss_that_is_not_finite, "the training step's loss is"),
    (an_adapter_that_is_not_zero, "the fresh adapter changes the base model's loss"),
    (a_projection_of_zeros, "the image does not matter"),
]
AT_EVERY_CUT = (
    features_of_which_one_is_anothers,
    features_that_are_not_finite,
    a_mask_that_lets_captions_see_each_other,
    an_adapter_that_is_not_zero,
    a_projection_of_zeros,
)


@pytest.mark.parametrize(("ours", "stock", "passes"), [(0.0189, 0.0181, True), (0.06, 0.02, False), (4.1, 4.0, True)])
def test_rounding_is_told_from_another_loss_however_sure_the_base_is(
    t5: Beginning, monkeypatch: pytest.MonkeyPatch, ours: float, stock: float, passes: bool
):
    case = case_of(t5, dtype=torch.bfloat16)
    case.subject = replace(case.subject, stock_loss=stock)
    monkeypatch.setattr(preflight, "_packed_loss", lambda subject, probe: ours)

    with nullcontext() if passes else pytest.raises(PreflightError, match="the training step's loss is"):
        case.check()


def name_of(value: object) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("broken", "message"), FAULTS, ids=name_of)
def test_what_is_broken_is_stopped(case: Case, broken: Callable[[Case], None], message: str):
    broken(case)

    with pytest.raises(PreflightError, match=message):
        case.check()


@pytest.mark.parametrize("preset", ["fast", "quality"])
@pytest.mark.parametrize(("broken", "message"), [fault for fault in FAULTS if fault[0] in AT_EVERY_CUT], ids=name_of)
def test_wherever_the_model_is_cut_it_is_stopped(
    t5: Beginning, preset: str, broken: Callable[[Case], None], message: str
):
    case = case_of(t5, preset)
    broken(case)

    with pytest.raises(PreflightError, match=message):
        case.check()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (a_mask_that_lets_captions_see_each_other, "the training step's loss is"),
        (a_projection_of_zeros, "the image does not matter"),
    ],
    ids=name_of,
)
def test_a_broken_decoder_only_subject_is_stopped(opt: Beginning, broken: Callable[[Case], None], message: str):
    case = case_of(opt)
    broken(case)

    with pytest.raises(PreflightError, match=message):
        case.check()


def test_a_head_tied_in_silence_is_stopped(case: Case):
    case.model.language_model.lm_head.weight = case.model.language_model.shared.weight

    with pytest.raises(CheckpointError, match="the output head was tied"):
        case.check()
