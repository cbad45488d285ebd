"""The frozen prefix is as long as what trains allows, and not longer."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioncrafter.model.cut import Cut, deepest_cut, is_decoder_only, parts_after, parts_before
from families import CUTS, Family

VISION = "vision_model.encoder.layers.1.self_attn.qkv"
QFORMER = "qformer.encoder.layer.0.attention.attention.query"
PROJECTION = "language_projection"
T5_ENCODER = "language_model.encoder.block.0.layer.0.SelfAttention.q"
T5_DECODER = "language_model.decoder.block.1.layer.1.EncDecAttention.v"
OPT_LAYER = "language_model.model.decoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("family", "trained", "cut"),
    [
        ("t5", [T5_DECODER], Cut.ENCODER),
        ("t5", [T5_DECODER, "language_model.lm_head"], Cut.ENCODER),
        ("t5", [], Cut.ENCODER),
        ("t5", [T5_DECODER, T5_ENCODER], Cut.QFORMER),
        ("t5", ["language_model.shared"], Cut.QFORMER),
        ("t5", [PROJECTION], Cut.QFORMER),
        ("t5", [T5_DECODER, QFORMER], Cut.VISION),
        ("t5", ["query_tokens"], Cut.VISION),
        ("t5", [T5_DECODER, PROJECTION, QFORMER, VISION], Cut.IMAGES),
        ("opt", [OPT_LAYER], Cut.QFORMER),
        ("opt", ["language_model.lm_head"], Cut.QFORMER),
        ("opt", [OPT_LAYER, PROJECTION], Cut.QFORMER),
        ("opt", [OPT_LAYER, QFORMER], Cut.VISION),
        ("opt", [VISION], Cut.IMAGES),
    ],
)
def test_the_cut_lies_before_the_first_layer_that_trains(
    family_of: Callable[[str], Family], family: str, trained: list[str], cut: Cut
):
    assert deepest_cut(family_of(family).config, trained) is cut


@pytest.mark.parametrize(("width", "cut"), [(16, Cut.PROJECTION), (32, Cut.QFORMER), (64, Cut.QFORMER)])
@pytest.mark.parametrize("trained", [T5_ENCODER, OPT_LAYER])
def test_of_a_frozen_projection_the_narrower_side_is_stored(width: int, cut: Cut, trained: str):
    from transformers import Blip2Config

    text = (
        {"model_type": "t5", "d_model": width} if trained == T5_ENCODER else {"model_type": "opt", "hidden_size": width}
    )
    config = Blip2Config(qformer_config={"hidden_size": 32}, text_config=text)

    assert deepest_cut(config, [trained]) is cut


def test_a_projection_that_trains_is_never_before_the_cut(family: Family):
    family.config.text_config.hidden_size, whole = 16, family.config.text_config.hidden_size
    cut = deepest_cut(family.config, [PROJECTION])
    family.config.text_config.hidden_size = whole

    assert cut is Cut.QFORMER


@pytest.mark.parametrize("trained", [[], [T5_DECODER], [VISION]])
def test_images_that_vary_are_never_stored(family: Family, trained: list[str]):
    assert deepest_cut(family.config, trained, augmented=True) is Cut.IMAGES


def test_a_name_that_only_begins_like_a_part_is_not_in_it(family: Family):
    assert deepest_cut(family.config, ["qformer_like.layer", "vision_model_2.layer"]) is not Cut.IMAGES


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_nothing_that_trains_lies_before_the_cut_and_a_deeper_one_has_something(family: Family, data: st.DataObject):
    names = sorted(name for name, _ in family.model.named_parameters() if "lora" not in name)
    trained = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))

    cut = deepest_cut(family.config, trained)

    inside = parts_before(cut)
    deeper = [one for one in Cut if len(parts_before(one)) > len(inside) and one is not Cut.PROJECTION]
    reachable = [one for one in deeper if not (one is Cut.ENCODER and is_decoder_only(family.config))]
    assert not any(_is_in(name, inside) for name in trained)
    assert all(any(_is_in(name, parts_before(one)) for name in trained) for one in reachable)


@pytest.mark.parametrize(("family", "cut"), CUTS)
def test_every_weight_lies_before_or_after_the_cut(family_of: Callable[[str], Family], family: str, cut: Cut):
    from transformers import Blip2ForConditionalGeneration

    model = Blip2ForConditionalGeneration.from_pretrained(family_of(family).folder)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]

    parts = (*parts_before(cut), *parts_after(model.config, cut))

    assert [name for name in names if not _is_in(name, parts)] == []


@pytest.mark.parametrize(("family", "cut"), CUTS)
def test_only_the_embedding_is_on_both_sides_of_a_cut(family_of: Callable[[str], Family], family: str, cut: Cut):
    both = set(parts_before(cut)) & set(parts_after(family_of(family).config, cut))

    assert both == ({"language_model.shared"} if cut is Cut.ENCODER else set())


def _is_in(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
