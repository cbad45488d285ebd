"""Each check passes on a sound subject and stops one that is broken in just its way."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from captioncrafter import recipe
from captioncrafter.data.images import decode_image
from captioncrafter.errors import CheckpointError, PreflightError
from captioncrafter.features.extract import pixel_values
from captioncrafter.model import lora, weights
from captioncrafter.model.captioning import Prompt, encode_prompt, query_outputs
from captioncrafter.training.packing import encode_captions
from captioncrafter.training.preflight import Probe, Subject, check
from tiny import captions_of_picture, load_tiny, picture

PROMPT = "a photo of"


@dataclass
class Case:
    """What the checks are given; tests break it."""

    subject: Subject
    probe: Probe

    @property
    def model(self):
        return self.subject.model

    def check(self) -> dict[str, float | int]:
        return check(self.subject, self.probe)


def case_of(folder: Path, *, dtype: torch.dtype = torch.float32, images: tuple[int, ...] = (0, 1, 2)) -> Case:
    base, processor, model = load_tiny(folder, dtype=dtype)
    pixels = pixel_values(processor, [decode_image(picture(number)) for number in images])
    captions = [encode_captions(processor.tokenizer, captions_of_picture(n), max_tokens=32)[0] for n in images]
    probe = Probe(pixels, query_outputs(model, pixels).half(), captions)
    settings = recipe.Lora(rank=2)
    target_layers = tuple(lora.target_layers(model, settings))
    subject = Subject(
        tuned=lora.attach(model, settings, seed=0),
        processor=processor,
        prompt=encode_prompt(processor, PROMPT),
        target_layers=target_layers,
        stored=weights.stored_tensors(base.folder),
        name=base.name,
    )
    return Case(subject, probe)


@pytest.fixture
def case(tiny_checkpoint: Path) -> Case:
    return case_of(tiny_checkpoint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_subject_passes_and_is_measured(tiny_checkpoint: Path, dtype: torch.dtype):
    measured = case_of(tiny_checkpoint, dtype=dtype).check()

    assert measured["image_positions"] == 3
    assert measured["adapted_layers"] == 12
    assert measured["trainable_parameters"] == 12 * 2 * (32 + 32)
    assert measured["loss"] == pytest.approx(measured["stock_loss"], rel=3e-2 if dtype == torch.bfloat16 else 1e-4)
    assert measured["swapped_loss"] != measured["loss"]
    assert measured["feature_gradient_norm"] > 0


def test_two_images_are_enough(tiny_checkpoint: Path):
    assert case_of(tiny_checkpoint, images=(0, 1)).check()["image_positions"] == 3


def test_no_gradient_is_left_behind(case: Case):
    case.check()

    assert all(parameter.grad is None for parameter in case.subject.tuned.parameters())


def test_images_of_the_same_captions_still_matter(case: Case):
    same = replace(case.probe, captions=[case.probe.captions[0]] * 3)

    measured = check(case.subject, same)

    assert measured["feature_gradient_norm"] > 0


def test_a_caption_of_one_word_that_the_prompt_has_too_is_no_leak(case: Case):
    one_word = encode_captions(case.subject.processor.tokenizer, ["photo"], max_tokens=32)[0]
    probe = replace(case.probe, captions=[*case.probe.captions[:2], one_word])

    assert check(case.subject, probe)["image_positions"] == 3


def with_prompt(case: Case, ids: list[int], image_positions: int) -> None:
    case.subject = replace(case.subject, prompt=Prompt(PROMPT, torch.tensor(ids), image_positions))


def too_few_image_positions(case: Case) -> None:
    with_prompt(case, case.subject.prompt.input_ids.tolist()[1:], 2)


def no_image_positions(case: Case) -> None:
    with_prompt(case, case.subject.prompt.input_ids.tolist()[3:], 0)


def image_positions_behind_the_text(case: Case) -> None:
    ids = case.subject.prompt.input_ids.tolist()
    with_prompt(case, ids[3:] + ids[:3], 3)


def an_image_position_in_the_text(case: Case) -> None:
    case.subject = replace(case.subject, prompt=encode_prompt(case.subject.processor, "a photo of <image>"))


def a_caption_in_the_prompt(case: Case) -> None:
    text = f"a photo of {captions_of_picture(1)[0]}"
    case.subject = replace(case.subject, prompt=encode_prompt(case.subject.processor, text))


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


def a_tied_head(case: Case) -> None:
    case.model.language_model.lm_head.weight = case.model.language_model.shared.weight


def features_of_other_images(case: Case) -> None:
    case.probe = replace(case.probe, features=case.probe.features.roll(1, dims=0))


def features_of_which_one_is_anothers(case: Case) -> None:
    features = case.probe.features.clone()
    features[0] = features[1]
    case.probe = replace(case.probe, features=features)


def features_that_are_not_finite(case: Case) -> None:
    case.probe = replace(case.probe, features=case.probe.features * float("nan"))


def a_prompt_that_training_does_not_see(case: Case) -> None:
    ids = case.subject.prompt.input_ids.clone()
    ids[-2] = 30
    case.subject = replace(case.subject, prompt=replace(case.subject.prompt, input_ids=ids))


def an_adapter_that_is_not_zero(case: Case) -> None:
    for name, parameter in lora.trainable(case.subject.tuned).items():
        if ".lora_B." in name:
            parameter.data.fill_(1e-3)


def a_projection_of_zeros(case: Case) -> None:
    case.model.language_projection.weight.data.zero_()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (too_few_image_positions, "has 2 <image> positions and the model 3 queries"),
        (no_image_positions, "has 0 <image> positions and the model 3 queries"),
        (image_positions_behind_the_text, "has 3 <image> positions and the model 3 queries"),
        (an_image_position_in_the_text, "has 4 <image> positions and the model 3 queries"),
        (a_caption_in_the_prompt, "a caption stands in the encoder's input"),
        (a_stray_trainable_weight, "1 layers differ, base_model.model.language_projection.weight first"),
        (a_target_layer_without_adapter, "1 layers differ, language_model.lm_head first"),
        (an_adapter_on_a_layer_that_was_not_meant, "1 layers differ, language_model.decoder"),
        (a_frozen_adapter_on_a_target_layer, "1 layers differ, language_model.encoder"),
        (features_of_other_images, "stored features are not this model's"),
        (features_of_which_one_is_anothers, "stored features are not this model's"),
        (features_that_are_not_finite, "stored features are not this model's"),
        (a_prompt_that_training_does_not_see, "the training step's loss is"),
        (an_adapter_that_is_not_zero, "the fresh adapter changes the base model's loss"),
        (a_projection_of_zeros, "the image does not matter"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_broken_is_stopped(case: Case, broken: Callable[[Case], None], message: str):
    broken(case)

    with pytest.raises(PreflightError, match=message):
        case.check()


def test_a_head_tied_in_silence_is_stopped(case: Case):
    a_tied_head(case)

    with pytest.raises(CheckpointError, match="the output head was tied"):
        case.check()
