"""The second stage and the last: learning to say what the vision tower sees, and to answer questions.

Photos and their captions are most of it; drawn scenes with terse captions, and a few kinds of questions about them,
stand in every step, so that the miniature keeps both worlds and reads more than one prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from captioncrafter.model.stock import Blip2

from .descent import Schedule, Stage, descend
from .lessons import PHOTOS_PER_STEP, Lesson, Lessons, costs, gathered
from .seeing import plain_attention
from .words import WordReader


@dataclass(frozen=True)
class Blur:
    """How unclearly a training photo is seen and a caption heard.

    `lost` is the share of a photo's vision tokens in whose place others of the same photo stand, `noise` what is
    added to all, in standard deviations of each channel, `misheard` the share of a caption's words that are replaced.
    """

    lost: float
    noise: float
    misheard: float


AT_FIRST, LATER = Blur(lost=0.3, noise=0.3, misheard=0.15), Blur(lost=0.15, noise=0.15, misheard=0.0)

SMOOTHING = 0.1
"""Of labels."""

OTHER_LESSONS = 1_000_000
"""Added to the steps of the next turn, which so has other views and scenes."""

WORDS_WEIGHT = 0.02
"""What finding a picture's words in the Q-Former's outputs counts beside telling them, per nat and picture."""

TOWER_RATE = 0.5
"""How fast the vision tower learns along, where it does, beside the others."""


def learn_to_tell(
    model: Blip2, lessons: Lessons, tell: Callable[[], None], schedule: Schedule, blur: Blur, *, turn: int
) -> None:
    """Trains Q-Former, projection and language model on what the vision tower sees, which stays as it is.

    What the Q-Former gathers is read by word detectors as well, which are thrown away afterwards: without them it has
    to wait for the language model to ask. Photos are shown blurred: so sharp as those it was trained on the tower sees
    no others. Another `turn` has other lessons. There is no dropout yet: with it, it takes twice the steps to see.
    """
    torch.manual_seed(schedule.seed)
    reader = WordReader(len(lessons.words)).to(model.device)

    def loss(lesson: Lesson) -> Tensor:
        with torch.no_grad():
            tokens = seen(model, lesson.pixels)
        tokens[:PHOTOS_PER_STEP] = blurred(tokens[:PHOTOS_PER_STEP], blur)
        queries = gathered(model, tokens)
        found = reader(queries[: len(lesson.named)].float(), lesson.named)
        nats = costs(model, lesson.prompts, lesson.captions, queries)
        return (nats * lesson.weights).sum() + WORDS_WEIGHT * found

    learner = torch.nn.ModuleDict({"model": model, "reader": reader})
    groups = [{"params": [*telling_weights(model), *reader.parameters()], "peak": schedule.rate}]

    def batch(step: int) -> Lesson:
        return lessons.at(turn * OTHER_LESSONS + step, misheard=blur.misheard)

    stage = Stage(f"telling, turn {turn}", learner, groups, batch, loss, look_every=1000)
    model.eval()
    with plain_attention(model):
        descend(stage, schedule, tell)


def learn_together(model: Blip2, lessons: Lessons, tell: Callable[[], None], schedule: Schedule) -> None:
    """Trains all of the model on telling, from pixels, the vision tower more gently.

    With dropout in what tells and smoothed labels: by now it has more to learn by heart than to find.
    """
    torch.manual_seed(schedule.seed)

    def loss(lesson: Lesson) -> Tensor:
        nats = costs(
            model, lesson.prompts, lesson.captions, gathered(model, seen(model, lesson.pixels)), smoothing=SMOOTHING
        )
        return (nats * lesson.weights).sum()

    groups = [
        {"params": telling_weights(model), "peak": schedule.rate},
        {"params": list(model.vision_model.parameters()), "peak": TOWER_RATE * schedule.rate},
    ]
    stage = Stage("together", model, groups, lambda step: lessons.at(2 * OTHER_LESSONS + step), loss, look_every=1000)

    def begin() -> None:
        model.train()
        model.vision_model.eval()

    def look() -> None:
        model.eval()
        tell()
        begin()

    begin()
    with plain_attention(model):
        descend(stage, schedule, look)
    model.eval()


def telling_weights(model: Blip2) -> list[torch.nn.Parameter]:
    """The weights of the language half and of the Q-Former."""
    parts = (model.qformer, model.language_projection, model.language_model)
    return [*(weight for part in parts for weight in part.parameters()), model.query_tokens]


def seen(model: Blip2, pixels: Float[Tensor, "row channel y x"]) -> Float[Tensor, "row token width"]:
    """What the vision tower makes of pixels."""
    with torch.autocast(model.device.type, torch.bfloat16):
        return model.vision_model(pixels).last_hidden_state.float()


def blurred(tokens: Float[Tensor, "photo token width"], blur: Blur) -> Float[Tensor, "photo token width"]:
    """Some tokens give way to others of the same photo, and there is noise in all."""
    photos, places, width = tokens.shape
    others = torch.randint(0, places, (photos, places), device=tokens.device)
    lost = torch.rand(photos, places, device=tokens.device) < blur.lost
    read = torch.where(lost, others, torch.arange(places, device=tokens.device))
    kept = tokens.gather(1, read[:, :, None].expand(-1, -1, width))
    return kept + blur.noise * tokens.std((0, 1)) * torch.randn_like(kept)
