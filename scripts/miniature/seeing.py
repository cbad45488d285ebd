"""The first stage: the vision tower learns to see photos as its teacher does, to find in them what people name, and to
read collages of shapes."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional

from captioncrafter.data.scenes.world import COLOURS, SHAPES, SIZES
from captioncrafter.model.stock import Blip2, Processor

from .collages import IGNORE, collage, under_cells
from .descent import Stage, descend
from .model import SIDE, VISION_LAYERS, WIDTH
from .photos import Photos, scaled, view
from .teacher import HINT_WIDTH, Seen, Teacher
from .words import WordReader, named_in, telling_words

PHOTOS_PER_STEP = 32
COLLAGES_PER_STEP = 6
HINTED_LAYER = VISION_LAYERS // 2
"""The layer whose outputs the teacher's early look is read from; so the lower half learns from near by."""

WHOLE_WEIGHT, HINT_WEIGHT, WORDS_WEIGHT, SHAPES_WEIGHT = 0.2, 0.3, 0.02, 0.1
"""Of the losses beside the one that counts, which is how far the patches are from the teacher's places."""


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
    """Trains the vision tower; what is thrown away afterwards are the readers of hints and shapes.

    After distillation from dense features (Romero et al., 2015; locality guidance, Li et al., 2022) and word detectors
    by noisy-or (Fang et al., 2015).
    """
    torch.manual_seed(seed)
    train, validation = photos
    learner = torch.nn.ModuleDict(
        {"vision": model.vision_model, "hint": torch.nn.Linear(WIDTH, HINT_WIDTH), "shapes": _Reader()}
    )
    words = telling_words(train.captions)
    learner["words"] = WordReader(len(words))

    def batch(step: int) -> _Batch:
        dice = random.Random(f"{seed}/view/{step}")
        numbers = _shuffled_for(step, len(train), seed)
        pictures = [view(train.picture(number), dice) for number in numbers]
        shapes = [collage(f"{seed}/collage/{step}/{number}") for number in range(COLLAGES_PER_STEP)]
        under = torch.tensor([under_cells(one, SIDE) for one in shapes])
        return _Batch(
            model_pixels(processor, [*pictures, *(one.picture for one in shapes)]),
            teacher.see(pictures),
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
        named = learner["words"](patches[:PHOTOS_PER_STEP, 1:], batch.named)
        of_photos = apart.patches + WHOLE_WEIGHT * apart.whole + HINT_WEIGHT * hint + WORDS_WEIGHT * named
        return of_photos + SHAPES_WEIGHT * shapes

    shown = [validation.picture(number) for number in range(0, len(validation), max(1, len(validation) // 128))]

    @torch.no_grad()
    def look() -> None:
        seen = teacher.see(shown)
        with torch.autocast("cpu", torch.bfloat16):
            patches = model.vision_model(model_pixels(processor, shown)).last_hidden_state.float()
        apart = _apart(patches, seen)
        print(
            f"  validation photos: patches {apart.patches:.3f} from the teacher's, whole {apart.whole:.3f}", flush=True
        )

    model.eval()
    groups = [{"params": list(learner.parameters()), "peak": rate}]
    descend(Stage("seeing", steps, learner, groups, batch, loss, look_every=200), seed, checkpoint, look)


@dataclass(frozen=True)
class _Apart:
    """Mean squares: 0 is the same, 1 is no better than a guess, since what is compared has variance 1."""

    patches: Tensor
    whole: Tensor


def _apart(patches: Float[Tensor, "photo token width"], seen: Seen) -> _Apart:
    return _Apart(functional.mse_loss(patches[:, 1:], seen.patches()), functional.mse_loss(patches[:, 0], seen.whole))


def model_pixels(processor: Processor, pictures: list[Image.Image]) -> Float[Tensor, "picture channel y x"]:
    """Pictures of the model's size as the model reads them."""
    images = processor.image_processor
    return scaled(pictures, images.image_mean, images.image_std)


def _shuffled_for(step: int, photos: int, seed: int) -> list[int]:
    """The photos of a step: every epoch has its own order."""
    steps = photos // PHOTOS_PER_STEP
    order = torch.randperm(photos, generator=torch.Generator().manual_seed(seed + step // steps))
    first = step % steps * PHOTOS_PER_STEP
    return order[first : first + PHOTOS_PER_STEP].tolist()


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
