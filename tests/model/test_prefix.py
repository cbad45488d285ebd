"""The way from an image to the decoder's context is the stock model's, wherever it starts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from captioncrafter.model.captioning import caption_loss
from captioncrafter.model.cut import Cut, parts_after, parts_before
from captioncrafter.model.prefix import context_of, features_at
from captioncrafter.model.stock import Blip2
from families import CUTS, END, Family, differing

ROWS = [[[5, 6, 7, END], [8, END]], [[9, 10, END]], [[11, END], [12, 13, 14, 15, END]]]
FamilyOf = Callable[[str], Family]


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_what_is_stored_costs_what_the_stock_model_says(family_of: FamilyOf, name: str, cut: Cut):
    family = family_of(name)

    ours, stock = family.loss(ROWS, cut), family.stock_loss(ROWS)

    torch.testing.assert_close(ours.double(), stock, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_all_that_trains_behind_the_cut_gets_the_stock_models_gradient(family_of: FamilyOf, name: str, cut: Cut):
    family = family_of(name)

    ours, stock = family.gradients(family.loss(ROWS, cut), cut), family.gradients(family.stock_loss(ROWS))

    assert differing(ours, stock, ours) == []


@pytest.mark.parametrize(
    ("name", "cut", "trained"),
    [
        ("t5", Cut.ENCODER, {"language_model.decoder", "language_model.lm_head"}),
        ("t5", Cut.PROJECTION, {"language_model.encoder"}),
        ("t5", Cut.QFORMER, {"language_projection"}),
        ("t5", Cut.VISION, {"qformer"}),
        ("t5", Cut.IMAGES, {"vision_model"}),
        ("opt", Cut.PROJECTION, {"language_model.model"}),
        ("opt", Cut.QFORMER, {"language_projection"}),
        ("opt", Cut.VISION, {"qformer"}),
    ],
)
def test_the_layers_right_behind_the_cut_train(family_of: FamilyOf, name: str, cut: Cut, trained: set[str]):
    family = family_of(name)

    names = family.gradients(family.loss(ROWS, cut), cut)

    for part in trained:
        assert any(name.startswith(f"base_model.model.{part}.") for name in names), part


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_features_take_no_gradient_with_them(family_of: FamilyOf, name: str, cut: Cut):
    family = family_of(name)

    assert not features_at(family.model, family.pixels, cut, family.prompts_of(range(3))).requires_grad


@pytest.mark.parametrize(
    ("cut", "shape"),
    [
        (Cut.IMAGES, (3, 3, 32, 32)),
        (Cut.VISION, (3, 17, 32)),
        (Cut.QFORMER, (3, 3, 32)),
        (Cut.PROJECTION, (3, 3, 32)),
    ],
)
def test_features_have_a_position_for_each_patch_or_query(family: Family, cut: Cut, shape: tuple[int, ...]):
    assert features_at(family.model, family.pixels, cut, family.prompts_of(range(3))).shape == shape


def test_encoder_states_have_a_position_for_each_of_the_longest_prompts(family_of: FamilyOf):
    family = family_of("t5")
    prompts = family.prompts_of(range(3))

    assert features_at(family.model, family.pixels, Cut.ENCODER, prompts).shape[:2] == prompts.positions.shape


def test_projected_features_are_what_the_stock_language_model_is_given(family: Family):
    with torch.no_grad():
        stock = family.model.get_image_features(family.pixels).pooler_output

    assert torch.equal(features_at(family.model, family.pixels, Cut.PROJECTION, family.prompts_of(range(3))), stock)


@pytest.mark.parametrize("cut", [Cut.IMAGES, Cut.VISION, Cut.QFORMER, Cut.PROJECTION])
def test_before_the_encoder_the_prompt_plays_no_part_in_features(family: Family, cut: Cut):
    one, other = (features_at(family.model, family.pixels[:1], cut, family.prompts_of([at])) for at in (0, 1))

    assert torch.equal(one, other)


def test_encoder_states_depend_on_the_prompt(family_of: FamilyOf):
    family = family_of("t5")
    one, other = (
        features_at(family.model, family.pixels[:1], Cut.ENCODER, family.prompts_of([at]))[:, 0] for at in (0, 1)
    )

    assert not torch.allclose(one, other)


def test_the_padding_of_a_prompt_never_changes_the_states_of_its_words(family: Family):
    known = family.prompts_of([2]).positions.shape[1]

    alone, together = family.context([2]).states, family.context([2, 1]).states[:1, :known]

    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_features_need_no_weight_but_those_before_the_cut(family_of: FamilyOf, name: str, cut: Cut):
    family = family_of(name)
    model = _stock(family)
    prompts = family.prompts_of(range(3))
    whole = features_at(model, family.pixels.float(), cut, prompts)

    _spoil(model, parts_before(cut))

    assert torch.equal(features_at(model, family.pixels.float(), cut, prompts), whole)


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_a_step_needs_no_weight_but_those_after_the_cut(family_of: FamilyOf, name: str, cut: Cut):
    family = family_of(name)
    model = _stock(family)
    prompts = family.prompts_of(range(3))
    features = features_at(model, family.pixels.float(), cut, prompts)

    def cost() -> Tensor:
        with torch.no_grad():
            return caption_loss(model, context_of(model, features, cut, prompts), family.packed(ROWS))

    whole = cost()
    _spoil(model, parts_after(model.config, cut))

    assert torch.equal(cost(), whole)


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_half_precision_features_are_read_in_the_models_own(family_of: FamilyOf, name: str, cut: Cut):
    family = family_of(name)
    prompts = family.prompts_of(range(3))
    features = features_at(family.model, family.pixels, cut, prompts)

    read = context_of(family.model, features.to(torch.bfloat16), cut, prompts).states

    assert read.dtype == torch.float64
    torch.testing.assert_close(read, context_of(family.model, features, cut, prompts).states, rtol=0.2, atol=0.2)


def _stock(family: Family) -> Blip2:
    """A model of its own without adapters."""
    from transformers import Blip2ForConditionalGeneration

    return Blip2ForConditionalGeneration.from_pretrained(family.folder).eval()


def _spoil(model: Blip2, kept: tuple[str, ...]) -> None:
    """Makes every weight NaN that lies in none of the parts `kept`."""
    safe = {
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if any(name == part or name.startswith(f"{part}.") for part in kept)
    }
    for parameter in model.parameters():
        if id(parameter) not in safe:
            parameter.data.fill_(float("nan"))
