"""The first stage: the vision tower learns to see photos as its teacher does, and to read collages of shapes."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional

from captioncrafter.data.scenes.world import COLOURS, SHAPES, SIZES
from captioncrafter.model.stock import Blip2, Processor

from .collages import IGNORE, collage, under_cells
from .descent import Group, Stage, descend
from .model import PATCH_SIZE, SIDE, VISION_LAYERS, WIDTH
from .photos import WHOLE, Photos, photos_of, scaled, some_view
from .teacher import CLASSES, HINT_WIDTH, Seen, Teacher
from .words import WordReader, average_precision, named_in, telling_words

PHOTOS_PER_STEP = 64
COLLAGES_PER_STEP = 8
HINTED_LAYER = VISION_LAYERS // 2
"""The layer whose outputs the teacher's early look is read from; so the lower half learns from near by."""

WHOLE_WEIGHT, HINT_WEIGHT, CLASSES_WEIGHT, WORDS_WEIGHT, SHAPES_WEIGHT = 0.2, 0.3, 0.2, 0.02, 0.1
"""Of the losses beside the one that counts, which is how far the patches are from the teacher's places."""


MATRICES_RATE = 3.0
"""How many times as fast as other weights the encoder's matrices learn."""


@dataclass(frozen=True)
class _Batch:
    pixels: Float[Tensor, "picture channel y x"]
    """Photos first, then collages."""

    seen: Seen
    named: Float[Tensor, "photo word"]
    under_patches: Int[Tensor, "collage patch kind"]


def learn_to_see(
    model: Blip2, processor: Processor, teacher: Teacher, photos: tuple[Photos, Photos], *,
    steps: int, rate: float, seed: int, checkpoint: Path,
) -> None:  # fmt: skip
    """Trains the vision tower; what is thrown away afterwards are the readers of hints, classes, words and shapes.

    After distillation from classes (Hinton et al., 2015) and from dense features (Romero et al., 2015; locality
    guidance, Li et al., 2022). The reader of words teaches nothing: taught by it, the tower learned the captions of six
    thousand photos by heart. It tells how much there is to read.
    """
    torch.manual_seed(seed)
    train, validation = photos
    learner = torch.nn.ModuleDict(
        {
            "vision": model.vision_model,
            "hint": torch.nn.Linear(WIDTH, HINT_WIDTH),
            "classes": torch.nn.Linear(WIDTH, CLASSES),
            "shapes": _Reader(),
        }
    )
    panorama = cache(lambda: teacher.panorama(train))  # made with the first batch, where one is still to come
    words = telling_words(train.captions)
    learner["words"] = reader = WordReader(len(words))

    def batch(step: int) -> _Batch:
        dice = random.Random(f"{seed}/view/{step}")
        numbers = photos_of(step, len(train), seed, at_once=PHOTOS_PER_STEP)
        views = [some_view(dice) for _ in numbers]
        pictures = [view.of(train.picture(number)) for number, view in zip(numbers, views, strict=True)]
        shapes = [collage(f"{seed}/collage/{step}/{number}") for number in range(COLLAGES_PER_STEP)]
        under = torch.tensor([under_cells(one, SIDE) for one in shapes])
        pixels = model_pixels(processor, [*pictures, *(one.picture for one in shapes)])
        seen = panorama().seen(numbers, views)
        patch_over(pixels[:PHOTOS_PER_STEP], seen, dice)
        return _Batch(
            pixels,
            seen,
            torch.stack([named_in(train.captions[number], words) for number in numbers]),
            under,
        )

    def loss(batch: _Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model.vision_model(batch.pixels, output_hidden_states=True)
        patches, early = outputs.last_hidden_state.float(), outputs.hidden_states[HINTED_LAYER].float()
        apart = _apart(patches[:PHOTOS_PER_STEP], batch.seen)
        hint = functional.mse_loss(learner["hint"](early[:PHOTOS_PER_STEP, 1:]), batch.seen.hint)
        shapes = learner["shapes"](patches[PHOTOS_PER_STEP:, 1:], batch.under_patches)
        named = reader(patches[:PHOTOS_PER_STEP, 1:].detach(), batch.named)
        classes = _surprise(
            teacher.classes(_quarters(batch.seen.places)), learner["classes"](_quarters(patches[:PHOTOS_PER_STEP, 1:]))
        )
        of_photos = apart.patches + WHOLE_WEIGHT * apart.whole + HINT_WEIGHT * hint + CLASSES_WEIGHT * classes
        return of_photos + WORDS_WEIGHT * named + SHAPES_WEIGHT * shapes

    sample = range(0, len(validation), max(1, len(validation) // 500))
    shown = [WHOLE.of(validation.picture(number)) for number in sample]
    said = torch.stack([named_in(validation.captions[number], words) for number in sample])
    seen = teacher.see(shown)

    @torch.no_grad()
    def look() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            patches = model.vision_model(model_pixels(processor, shown)).last_hidden_state.float()
        apart = _apart(patches, seen)
        precision = average_precision(reader.found(patches[:, 1:]), said)
        print(
            f"  validation photos: patches {apart.patches:.3f} from the teacher's, whole {apart.whole:.3f}; "
            f"words' mean average precision {precision:.3f}",
            flush=True,
        )

    model.eval()
    groups, matrices = learning_groups(learner, model.vision_model.encoder, rate)
    stage = Stage("seeing", steps, learner, groups, batch, loss, look_every=500, matrices=matrices)
    with eager_attention(model):
        descend(stage, seed, checkpoint, look)


def learning_groups(learner: torch.nn.Module, encoder: torch.nn.Module, rate: float) -> tuple[list[Group], list[Group]]:
    """The weights that learn by AdamW, and the encoder's matrices, which learn by Muon."""
    matrices = [weight for weight in encoder.parameters() if weight.ndim == 2]
    known = {id(weight) for weight in matrices}
    others = [weight for weight in learner.parameters() if id(weight) not in known]
    return [{"params": others, "peak": rate}], [{"params": matrices, "peak": MATRICES_RATE * rate}]


def patch_over(pixels: Float[Tensor, "photo channel y x"], seen: Seen, dice: random.Random) -> None:
    """Lays over every second picture, in place, a rectangle of its neighbour's, and of what there is to see there.

    CutMix (Yun et al., 2019), with a target for each patch; its edges are those of four patches. Without it the tower
    learns the photos by heart.
    """
    originals, places, hints = pixels.clone(), seen.places.clone(), seen.hint.clone()
    for photo in range(0, len(pixels), 2):
        rows, columns = _stretch(dice), _stretch(dice)
        y, x = (slice(one.start * PATCH_SIZE, one.stop * PATCH_SIZE) for one in (rows, columns))
        pixels[photo, :, y, x] = originals[photo - 1, :, y, x]
        for of_all, originally in ((seen.places, places), (seen.hint, hints)):
            grid = of_all[photo].view(SIDE, SIDE, -1)
            grid[rows, columns] = originally[photo - 1].view(SIDE, SIDE, -1)[rows, columns]


def _stretch(dice: random.Random) -> slice:
    """Two to six patches in a row, in pairs."""
    length = dice.choice((2, 4, 6))
    start = dice.randrange(0, SIDE - length + 1, 2)
    return slice(start, start + length)


@contextmanager
def eager_attention(model: Blip2) -> Iterator[None]:
    """Lets the vision tower attend by plain products, with 65 tokens a fifth faster to train than PyTorch's own."""
    usual = model.vision_model.config._attn_implementation
    model.vision_model.set_attn_implementation("eager")
    yield
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


def model_pixels(processor: Processor, pictures: list[Image.Image]) -> Float[Tensor, "picture channel y x"]:
    """Pictures of the model's size as the model reads them."""
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
