"""Prompts and captions are held against each other before anything is loaded."""

from collections.abc import Callable

import pytest
import torch

from captioncrafter.errors import PreflightError
from captioncrafter.model.checkpoint import image_token_id
from captioncrafter.model.prompts import Prompt, encode_prompt
from captioncrafter.training.packing import encode_captions
from captioncrafter.training.preflight import check_inputs
from tiny import captions_of_picture
from trainees import PROMPT, Beginning


def read(start: Beginning, prompts: list[Prompt]) -> None:
    """Holds prompts against captions of the first images, as a run does before it loads anything."""
    token = image_token_id(start.processor)
    check_inputs(prompts, start.captions[: len(prompts)], queries=3, image_token=token)


def test_sound_prompts_pass(start: Beginning, opt: Beginning):
    read(start, start.prompts)
    read(opt, opt.prompts)


def with_ids(start: Beginning, change: Callable[[list[int]], list[int]]) -> Prompt:
    return Prompt(PROMPT, torch.tensor(change(start.prompts[0].input_ids.tolist())), 3)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda ids: ids[1:], 2),
        (lambda ids: ids[3:], 0),
        (lambda ids: ids[3:] + ids[:3], 3),
        (lambda ids: ids + ids[:1], 4),
    ],
    ids=["too few", "none", "behind the text", "one more in the text"],
)
def test_image_positions_that_are_not_exact_are_stopped(
    start: Beginning, change: Callable[[list[int]], list[int]], found: int
):
    prompts = [start.prompts[0], with_ids(start, change)]

    with pytest.raises(PreflightError, match=f"has {found} <image> positions and the model 3 queries"):
        read(start, prompts)


@pytest.mark.parametrize("family", ["start", "opt"])
def test_a_caption_in_the_prompt_is_stopped(family: str, request: pytest.FixtureRequest):
    start: Beginning = request.getfixturevalue(family)
    leaking = encode_prompt(start.processor, f"{PROMPT} {captions_of_picture(1)[0]}")

    with pytest.raises(PreflightError, match="a caption stands in the encoder's input"):
        read(start, [start.prompts[0], leaking])


def test_a_caption_of_one_word_that_the_prompt_has_too_is_no_leak(start: Beginning):
    (ids,), _ = encode_captions(start.processor.tokenizer, ["photo"], start.model.config, prompt=PROMPT, max_tokens=32)

    check_inputs(start.prompts[:1], [[ids]], queries=3, image_token=image_token_id(start.processor))
