"""The first stage: the vision tower learns to see photos as its teacher does, and to read collages of shapes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from captioncrafter.data.scenes.world import COLOURS, SHAPES, SIZES
from captioncrafter.model.stock import Blip2, Processor

from .collages import IGNORE
from .descent import Group, Schedule, Stage, descend
from .dice import drawn_for
from .drawings import Collages
from .model import IMAGE_SIZE, SIDE, VISION_LAYERS, WIDTH
from .photos import KEPT_SIZE, Photos, Views, photos_of, scaled, some_views, whole
from .teacher import CLASSES, HINT_WIDTH, Seen, Teacher
from .words import WordReader, average_precision, named_in, telling_words

PHOTOS_PER_STEP = 256
COLLAGES_PER_STEP = 32
HINTED_LAYER = VISION_LAYERS // 2
"""The layer whose outputs the teacher's early look is read from; so the lower half learns from near by."""

WHOLE_WEIGHT, HINT_WEIGHT, CLASSES_WEIGHT, WORDS_WEIGHT, SHAPES_WEIGHT = 0.2, 0.3, 0.2, 0.02, 0.1
"""Of the losses beside the one that counts, which is how far the patches are from the teacher's places."""

MATRICES_RATE = 3.0
"""How many times as fast as other weights the encoder's matrices learn."""

COVERED, BLENDED = 0.5, 0.25
"""Shares of the photos over which a rectangle of another lies, or all of another, half seen through."""

LOOKED_AT = 500
"""Validation photos."""


class _Batch(NamedTuple):
    """What chance decides of a step."""

    photos: Int[Tensor, " photo"]
    views: Float[Tensor, "photo 7"]
    mixtures: Float[Tensor, "photo 6"]
    collages: Int[Tensor, " collage"]


def learn_to_see(
    model: Blip2,
    processor: Processor,
    teacher: Teacher,
    photos: tuple[Photos, Photos],
    drawn: Collages,
    schedule: Schedule,
) -> None:
    """Trains the vision tower; what is thrown away afterwards are the readers of hints, classes, words and shapes.

    After distillation from classes (Hinton et al., 2015) and from dense features (Romero et al., 2015; locality
    guidance, Li et al., 2022), with the teacher looking at the very pictures that the tower looks at, of which no two
    are alike (Beyer et al., 2022). The reader of words teaches the tower nothing (but its gradient counts in the norm
    that is clipped): taught by it, the tower learned the captions of six thousand photos by heart. It tells how much
    there is to read.
    """
    torch.manual_seed(schedule.seed)
    device = model.device
    train, validation = photos
    learner = torch.nn.ModuleDict(
        {
            "vision": model.vision_model,
            "hint": torch.nn.Linear(WIDTH, HINT_WIDTH),
            "classes": torch.nn.Linear(WIDTH, CLASSES),
            "shapes": _Reader(),
        }
    )
    words = telling_words(train.captions)
    learner["words"] = reader = WordReader(len(words))
    learner.to(device)
    named = torch.stack([named_in(captions, words) for captions in train.captions]).to(device)
    under = drawn.under.to(device)

    def batch(step: int) -> _Batch:
        dice = drawn_for(schedule.seed, step)
        return _Batch(
            torch.tensor(photos_of(step, len(train), schedule.seed, at_once=PHOTOS_PER_STEP)),
            some_views(PHOTOS_PER_STEP, dice).drawn,
            some_mixtures(PHOTOS_PER_STEP, dice),
            torch.randint(len(drawn), (COLLAGES_PER_STEP,), generator=dice),
        )

    def loss(batch: _Batch) -> Tensor:
        with torch.no_grad():
            pictures = mixed(Views(batch.views).of(train.pixels[batch.photos], KEPT_SIZE), batch.mixtures)
            seen = teacher.see(pictures)
            pictures = functional.interpolate(pictures, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
            pictures = torch.cat([pictures, drawn.pixels[batch.collages].float() / 255])
        with torch.autocast(device.type, torch.bfloat16):
            outputs = model.vision_model(model_pixels(processor, pictures), output_hidden_states=True)
        patches, early = outputs.last_hidden_state.float(), outputs.hidden_states[HINTED_LAYER].float()
        apart = _apart(patches[:PHOTOS_PER_STEP], seen)
        hint = functional.mse_loss(learner["hint"](early[:PHOTOS_PER_STEP, 1:]), seen.hint)
        shapes = learner["shapes"](patches[PHOTOS_PER_STEP:, 1:], under[batch.collages])
        found = reader(patches[:PHOTOS_PER_STEP, 1:].detach(), named[batch.photos])
        classes = _surprise(
            teacher.classes(_quarters(seen.places)), learner["classes"](_quarters(patches[:PHOTOS_PER_STEP, 1:]))
        )
        of_photos = apart.patches + WHOLE_WEIGHT * apart.whole + HINT_WEIGHT * hint + CLASSES_WEIGHT * classes
        return of_photos + WORDS_WEIGHT * found + SHAPES_WEIGHT * shapes

    sample = slice(None, None, max(1, len(validation) // LOOKED_AT))
    shown = model_pixels(processor, whole(validation.pixels[sample], IMAGE_SIZE))
    said = torch.stack([named_in(captions, words) for captions in validation.captions[sample]]).to(device)
    seen_there = teacher.see(whole(validation.pixels[sample], KEPT_SIZE))

    @torch.no_grad()
    def look() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            patches = model.vision_model(shown).last_hidden_state.float()
        apart = _apart(patches, seen_there)
        precision = average_precision(reader.found(patches[:, 1:]), said)
        print(
            f"  validation photos: patches {apart.patches:.3f} from the teacher's, whole {apart.whole:.3f}; "
            f"words' mean average precision {precision:.3f}",
            flush=True,
        )

    model.eval()
    groups, matrices = learning_groups(learner, model.vision_model.encoder, schedule.rate)
    stage = Stage("seeing", learner, groups, batch, loss, look_every=500, matrices=matrices, alike=True)
    with plain_attention(model):
        descend(stage, schedule, look)


def learning_groups(learner: torch.nn.Module, encoder: torch.nn.Module, rate: float) -> tuple[list[Group], list[Group]]:
    """The weights that learn by AdamW, and the encoder's matrices, which learn by Muon."""
    matrices = [weight for weight in encoder.parameters() if weight.ndim == 2]
    known = {id(weight) for weight in matrices}
    others = [weight for weight in learner.parameters() if id(weight) not in known]
    return [{"params": others, "peak": rate}], [{"params": matrices, "peak": MATRICES_RATE * rate}]


def some_mixtures(count: int, dice: torch.Generator) -> Float[Tensor, "photo 6"]:
    """For each picture which share of another is seen inside a rectangle and outside, and the rectangle's four edges.

    Over some lies a rectangle of another photo (CutMix, Yun et al., 2019), over others all of it, half seen through
    (mixup, Zhang et al., 2018). Six thousand photos are soon known by heart, their pairs are not.
    """

    def between(low: float, high: float) -> Float[Tensor, " photo"]:
        return low + (high - low) * torch.rand(count, generator=dice)

    kind, through = between(0, 1), between(0.2, 0.5)
    covered, blended = kind < COVERED, (kind >= COVERED) & (kind < COVERED + BLENDED)
    outside = torch.where(blended, through, 0.0)
    high, wide = between(0.25, 0.75), between(0.25, 0.75)
    top, left = between(0, 1) * (1 - high), between(0, 1) * (1 - wide)
    return torch.stack([torch.where(covered, 1.0, outside), outside, top, top + high, left, left + wide], dim=1)


def mixed(
    pictures: Float[Tensor, "photo channel y x"], mixtures: Float[Tensor, "photo 6"]
) -> Float[Tensor, "photo channel y x"]:
    """Each picture with another over it."""
    inside, outside, top, bottom, left, right = mixtures[:, :, None, None].unbind(1)
    places = (torch.arange(pictures.shape[-1], device=pictures.device) + 0.5) / pictures.shape[-1]
    down, across = places[:, None], places[None, :]
    within = (down >= top) & (down < bottom) & (across >= left) & (across < right)
    return torch.lerp(pictures, pictures.roll(1, 0), torch.where(within, inside, outside)[:, None])


@contextmanager
def plain_attention(model: Blip2) -> Iterator[None]:
    """Lets the vision tower attend by plain products: on a CPU, with 65 tokens, a fifth faster than PyTorch's own."""
    usual = model.vision_model.config._attn_implementation
    if model.device.type == "cpu":
        model.vision_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.vision_model.set_attn_implementation(usual)


@dataclass(frozen=True)
class _Apart:
    """Mean squares: 0 is the same, 1 is no better than a guess, since what is compared has variance 1."""

    patches: Tensor
    whole: Tensor


def _apart(patches: Float[Tensor, "photo token width"], seen: Seen) -> _Apart:
    return _Apart(functional.mse_loss(patches[:, 1:], seen.patches()), functional.mse_loss(patches[:, 0], seen.whole()))


def _quarters(patches: Float[Tensor, "picture patch width"]) -> Float[Tensor, "picture quarter width"]:
    """Means over two by two patches."""
    grid = patches.transpose(1, 2).unflatten(2, (SIDE, SIDE))
    return functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)


def _surprise(teacher: Tensor, student: Tensor) -> Tensor:
    """Kullback-Leibler divergence between the classes that two sets of logits stand for, in nats."""
    return functional.kl_div(
        student.flatten(0, 1).log_softmax(-1), teacher.flatten(0, 1).log_softmax(-1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip


def model_pixels(
    processor: Processor, pictures: Float[Tensor, "picture channel y x"]
) -> Float[Tensor, "picture channel y x"]:
    """Pictures of the model's size, whose pixels go from 0 to 1, as the model reads them."""
    images = processor.image_processor
    return scaled(pictures, images.image_mean, images.image_std)


class _Reader(torch.nn.Module):
    """Tells from a position's output the colour, shape and size of what lies there; the last class is: nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(kind) + 1) for kind in (COLOURS, SHAPES, SIZES))

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over [image, position] outputs; positions with and without a thing weigh the same in sum."""
        outputs, labels = outputs.flatten(0, 1), labels.flatten(0, 1)
        covered = labels[:, 1] < len(SHAPES)
        weights = torch.where(covered, 0.5 / covered.sum(), 0.5 / (~covered).sum())
        losses = [
            functional.cross_entropy(head(outputs), labels[:, column], ignore_index=IGNORE, reduction="none")
            for column, head in enumerate(self.heads)
        ]
        return (torch.stack(losses).sum(dim=0) * weights).sum()
