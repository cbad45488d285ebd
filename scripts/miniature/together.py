"""The last stage: the vision tower learns along with what reads it, gently, from pixels."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from captioncrafter.model.stock import Blip2, Processor

from .album import TELLING_CROP, Look, album_of
from .descent import Stage, descend
from .photos import Photos, photos_of, some_view
from .seeing import eager_attention, model_pixels
from .telling import PHOTOS_PER_STEP, PROMPT, Lesson, Part, costs, gathered, lesson, scene_parts, telling_weights, told

NEW_SCENES = 2
"""Added to the seed: other scenes than the stage before has told."""

SMOOTHING = 0.1
"""Of labels."""


def learn_together(
    model: Blip2, processor: Processor, photos: tuple[Photos, Photos], look: Look, *,
    steps: int, rate: float, seed: int, checkpoint: Path,
) -> None:  # fmt: skip
    """Trains all of the model on telling, the vision tower at half the rate."""
    torch.manual_seed(seed)
    train, validation = photos

    def shown(pictures: Sequence[Image.Image]) -> Float[Tensor, "picture channel y x"]:
        return model_pixels(processor, list(pictures))

    def batch(step: int) -> Lesson:
        dice = random.Random(f"{seed}/together/{step}")
        numbers = photos_of(step, len(train), seed, at_once=PHOTOS_PER_STEP)
        views = [some_view(dice, smallest=TELLING_CROP).of(train.picture(number)) for number in numbers]
        captions = [train.captions[number] for number in numbers]
        parts = [Part(shown(views), [PROMPT] * len(numbers), captions, 1.0)]
        return lesson(model, processor, parts + scene_parts(shown, step, seed + NEW_SCENES))

    def loss(lesson: Lesson) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model.vision_model(lesson.shown).last_hidden_state.float()
        nats = costs(model, lesson, gathered(model, tokens), smoothing=SMOOTHING)
        return (nats * lesson.weights).sum()

    def tell() -> None:
        model.eval()
        told(model, processor, album_of(validation, look, views=1, seed=seed), look)
        begin()

    def begin() -> None:
        model.train()  # with the dropout of the configuration: by now it has more to learn by heart than to find
        model.vision_model.eval()

    begin()
    groups = [
        {"params": telling_weights(model), "peak": rate},
        {"params": list(model.vision_model.parameters()), "peak": rate / 2},
    ]
    with eager_attention(model):
        descend(Stage("together", steps, model, groups, batch, loss, look_every=400), seed, checkpoint, tell)
    model.eval()
