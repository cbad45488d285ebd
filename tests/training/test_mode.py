"""While training, dropout is on in the parts in which something trains, and in no frozen one."""

import pytest
import torch
from torch import nn

from captioncrafter import recipe
from captioncrafter.model.stock import Tuned
from captioncrafter.training.mode import evaluation_mode, training_mode
from trainees import Beginning

PARTS = ("vision_model", "qformer", "language_projection", "language_model.encoder", "language_model.decoder")


def training(start: Beginning, preset: str, **options: object) -> Tuned:
    tuned = start.tuned(start.options(preset=preset))
    training_mode(tuned, recipe.Training(**options))
    return tuned


def in_training_mode(tuned: Tuned, parts: tuple[str, ...]) -> set[str]:
    """The parts of which all modules are; raises where one has some that are and some that are not."""
    found = set()
    for part in parts:
        modes = {module.training for module in tuned.get_base_model().get_submodule(part).modules()}
        assert len(modes) == 1, part
        if modes == {True}:
            found.add(part)
    return found


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("fast", {"language_model.decoder"}),
        ("efficient", {"language_model.encoder", "language_model.decoder"}),
        ("quality", {"language_model.encoder", "language_model.decoder", "qformer"}),
        ("full-bridge", {"language_model.encoder", "language_model.decoder", "qformer", "language_projection"}),
    ],
)
def test_just_the_parts_of_the_preset_are_in_training_mode(start: Beginning, preset: str, expected: set[str]):
    assert in_training_mode(training(start, preset), PARTS) == expected


@pytest.mark.parametrize(("preset", "expected"), [("fast", set()), ("quality", {"qformer"})])
def test_a_decoder_only_language_model_is_one_part(opt: Beginning, preset: str, expected: set[str]):
    parts = ("vision_model", "qformer", "language_projection", "language_model")

    assert in_training_mode(training(opt, preset), parts) == {"language_model"} | expected


def test_after_evaluation_mode_nothing_is_in_training_mode(start: Beginning):
    tuned = training(start, "quality")

    evaluation_mode(tuned)

    assert not any(module.training for module in tuned.modules())


def test_training_mode_again_after_evaluation_is_the_same(start: Beginning):
    tuned = training(start, "fast")
    before = [module.training for module in tuned.modules()]

    evaluation_mode(tuned)
    training_mode(tuned, recipe.Training())

    assert [module.training for module in tuned.modules()] == before


def encoder_varies(tuned: Tuned) -> bool:
    """Whether two looks at the same input differ."""
    encoder = tuned.get_base_model().language_model.encoder
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        return not torch.equal(*(encoder(input_ids=ids).last_hidden_state for _ in range(2)))


def q_former_varies(tuned: Tuned) -> bool:
    model = tuned.get_base_model()
    patches = torch.randn(1, 17, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        looks = [
            model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=patches).last_hidden_state
            for _ in range(2)
        ]
    return not torch.equal(*looks)


@pytest.mark.parametrize(("preset", "encoder", "q_former"), [
    ("fast", False, False), ("efficient", True, False), ("quality", True, True),
])  # fmt: skip
def test_dropout_acts_where_something_trains(start: Beginning, preset: str, encoder: bool, q_former: bool):
    tuned = training(start, preset)

    assert (encoder_varies(tuned), q_former_varies(tuned)) == (encoder, q_former)


def with_attention_dropout_alone(tuned: Tuned) -> Tuned:
    """T5Attention keeps its dropout as a number, which setting every `nn.Dropout` to 0 leaves on."""
    for module in tuned.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return tuned


def test_the_attention_dropout_of_t5_acts_in_training_mode_only(start: Beginning):
    frozen = with_attention_dropout_alone(training(start, "fast"))
    trained = with_attention_dropout_alone(training(start, "efficient"))

    assert (encoder_varies(frozen), encoder_varies(trained)) == (False, True)
    evaluation_mode(trained)
    assert not encoder_varies(trained)


@pytest.mark.parametrize("wanted", [True, False])
def test_gradient_checkpointing_is_on_where_the_recipe_says(start: Beginning, wanted: bool):
    tuned = training(start, "efficient", gradient_checkpointing=wanted)

    blocks = [
        block for name in ("encoder", "decoder") for block in getattr(tuned.get_base_model().language_model, name).block
    ]
    assert {block.gradient_checkpointing for block in blocks} == {wanted}
