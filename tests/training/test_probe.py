"""What preflight compares with is the stock model's own loss from the pixels, with one half in memory at a time."""

import copy
from pathlib import Path

import pytest
import torch

from captioncrafter.model.cut import Cut, parts_after, parts_before
from captioncrafter.model.prefix import context_of
from captioncrafter.training.probe import Probe, observe, stock_loss
from tiny import write_tiny_opt_checkpoint
from trainees import CPU, Beginning

PROMPTS = ("a photo of", "a big photo of the dog")
T5_CUTS = [Cut.IMAGES, Cut.VISION, Cut.QFORMER, Cut.PROJECTION, Cut.ENCODER]


@pytest.fixture(scope="module")
def starts(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Beginning]:
    opt = write_tiny_opt_checkpoint(tmp_path_factory.mktemp("opt") / "blip2-opt")
    return {"t5": Beginning(tiny_checkpoint, prompts=PROMPTS), "opt": Beginning(opt, prompts=PROMPTS)}


def observed(start: Beginning, cut: Cut, model=None, features=None) -> Probe:
    return observe(model or start.model, cut, start.pixels, features, start.prompts, start.captions, CPU)


@torch.no_grad()
def from_the_pixels(start: Beginning) -> float:
    """Nats a token by the untouched forward, one caption a call."""
    total, tokens = 0.0, 0
    for pixels, prompt, captions in zip(start.pixels, start.prompts, start.captions, strict=True):
        for ids in captions:
            inputs, labels = prompt.input_ids[None], torch.tensor([ids])
            if start.model.config.use_decoder_only_language_model:
                ignored = torch.full_like(inputs, -100)
                inputs, labels = torch.cat([inputs, labels], dim=1), torch.cat([ignored, labels], dim=1)
            loss = start.model(pixel_values=pixels[None], input_ids=inputs, labels=labels).loss
            total += float(loss) * len(ids)
            tokens += len(ids)
    return total / tokens


@pytest.mark.parametrize(
    ("family", "cut"), [*(("t5", cut) for cut in T5_CUTS), ("opt", Cut.QFORMER), ("opt", Cut.IMAGES)]
)
def test_the_stock_loss_is_that_of_the_whole_forward_from_the_pixels(
    starts: dict[str, Beginning], family: str, cut: Cut
):
    start = starts[family]

    found = stock_loss(start.model, observed(start, cut), CPU)

    assert found == pytest.approx(from_the_pixels(start), rel=1e-5)


@pytest.mark.parametrize(
    ("family", "cut"), [("t5", Cut.VISION), ("t5", Cut.QFORMER), ("t5", Cut.ENCODER), ("opt", Cut.QFORMER)]
)
def test_neither_half_needs_the_weights_of_the_other(starts: dict[str, Beginning], family: str, cut: Cut):
    start = starts[family]
    front, back = (copy.deepcopy(start.model) for _ in range(2))
    seen_by_front = {*parts_before(Cut.QFORMER), *parts_before(cut), "language_projection"}
    without(front, set(parts_after(front.config, cut)) - seen_by_front)
    without(back, set(parts_before(cut)) - set(parts_after(back.config, cut)))

    found = stock_loss(back, observed(start, cut, front), CPU)

    assert found == pytest.approx(from_the_pixels(start), rel=1e-5)


def without(model, parts: set[str]) -> None:
    """Takes the weights of `parts` out of memory."""
    for part in parts:
        if part == "query_tokens":
            model.query_tokens = torch.nn.Parameter(model.query_tokens.to("meta"), requires_grad=False)
        else:
            model.get_submodule(part).to("meta")
    assert any(parameter.is_meta for parameter in model.parameters())


def test_the_projected_image_is_the_stock_model_s(starts: dict[str, Beginning]):
    start = starts["t5"]

    seen = observed(start, Cut.QFORMER).seen

    with torch.no_grad():
        expected = start.model.get_image_features(start.pixels).pooler_output
    torch.testing.assert_close(torch.cat(seen), expected)


def test_the_encoder_s_states_are_those_the_step_computes(starts: dict[str, Beginning]):
    start = starts["t5"]
    probe = observed(start, Cut.ENCODER)

    with torch.no_grad():
        context = context_of(start.model, start.features, start.cut, probe.stacked_prompts(start.model))

    for row, states in enumerate(probe.seen):
        torch.testing.assert_close(context.states[row, context.mask[row]], states[0])


@pytest.mark.parametrize("cut", T5_CUTS)
def test_features_that_are_the_model_s_differ_by_nothing(starts: dict[str, Beginning], cut: Cut):
    fresh = observed(starts["t5"], cut)

    assert observed(starts["t5"], cut, features=fresh.features).difference.tolist() == [0.0] * 6


def test_features_of_another_image_differ_image_by_image(starts: dict[str, Beginning]):
    features = observed(starts["t5"], Cut.QFORMER).features.clone()
    features[2] = features[0]

    difference = observed(starts["t5"], Cut.QFORMER, features=features).difference

    assert difference[2] > 0.01
    assert difference[[0, 1, 3, 4, 5]].tolist() == [0.0] * 5


def test_the_difference_is_a_share_of_the_norm(starts: dict[str, Beginning]):
    features = observed(starts["t5"], Cut.QFORMER).features

    difference = observed(starts["t5"], Cut.QFORMER, features=features * 1.25).difference

    assert difference.tolist() == pytest.approx([0.25] * 6, rel=1e-5)


def test_features_of_another_shape_differ_without_bound(starts: dict[str, Beginning]):
    features = observed(starts["t5"], Cut.QFORMER).features[:, :2]

    assert torch.isinf(observed(starts["t5"], Cut.QFORMER, features=features).difference).all()


def test_what_stands_in_padding_makes_no_difference(starts: dict[str, Beginning]):
    fresh = observed(starts["t5"], Cut.ENCODER)
    held = fresh.stacked_prompts(starts["t5"].model).positions[:, :, None]
    assert not held.all()

    probe = observed(starts["t5"], Cut.ENCODER, features=fresh.features * held)

    assert probe.difference.tolist() == [0.0] * 6


def test_tokens_are_those_of_all_captions(starts: dict[str, Beginning]):
    assert observed(starts["t5"], Cut.QFORMER).tokens == sum(starts["t5"].images.lengths)
