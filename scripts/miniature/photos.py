"""The photos that the miniature learns from, and the views of them that it is shown. Reads a prepared dataset."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageEnhance
from torch import Tensor

from captioncrafter.data.ahead import computed_ahead
from captioncrafter.data.captions import normalise
from captioncrafter.data.splits import CaptionedImage, CaptionedImages, load_splits
from captioncrafter.recipe import Data

from .model import IMAGE_SIZE

KEPT_SIZE = 320
"""Pixels along a side at which photos are kept in memory."""

SMALLEST_CROP = 0.2
"""The least share of a photo's area that a view shows."""


@dataclass(frozen=True)
class Photos:
    """A split in memory: photos squashed to a square, as the model's processor squashes them, with their captions."""

    pixels: UInt8[np.ndarray, "photo y x channel"]
    captions: Sequence[Sequence[str]]
    image_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.pixels)

    def picture(self, photo: int) -> Image.Image:
        """The whole photo, larger than the model's size, so that a view of a part of it is sharp too."""
        return Image.fromarray(self.pixels[photo])


def load_photos(dataset: Path) -> tuple[Photos, Photos]:
    """The training and the validation photos of a folder that `captioncrafter prepare` wrote."""
    splits = load_splits(Data(path=str(dataset)))
    return _in_memory(splits["train"]), _in_memory(splits["validation"])


def _in_memory(split: CaptionedImages) -> Photos:
    images = list(split)
    pixels = np.stack(list(computed_ahead(_squashed, images)))
    captions = [[normalise(caption) for caption in image.captions] for image in images]
    return Photos(pixels, captions, [image.image_id for image in images])


def _squashed(image: CaptionedImage) -> UInt8[np.ndarray, "y x channel"]:
    return np.asarray(image.decode().resize((KEPT_SIZE, KEPT_SIZE), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class View:
    """What a passer-by might have taken of a photo: a part of it, perhaps mirrored, in a little other light.

    `left`, `top`, `across` and `down` are fractions of the photo's sides.
    """

    left: float = 0.0
    top: float = 0.0
    across: float = 1.0
    down: float = 1.0
    mirrored: bool = False
    brightness: float = 1.0
    colour: float = 1.0

    def of(self, photo: Image.Image, size: int = IMAGE_SIZE) -> Image.Image:
        """The view, in the model's size unless another is said."""
        width, height = photo.size
        right, bottom = self.left + self.across, self.top + self.down
        box = (self.left * width, self.top * height, min(right, 1.0) * width, min(bottom, 1.0) * height)
        part = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
        if self.mirrored:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.brightness != 1.0:
            part = ImageEnhance.Brightness(part).enhance(self.brightness)
        return ImageEnhance.Color(part).enhance(self.colour) if self.colour != 1.0 else part


WHOLE = View()


def some_view(dice: random.Random, *, smallest: float = SMALLEST_CROP) -> View:
    """Any view that shows at least the share `smallest` of a photo's area."""
    area, ratio = dice.uniform(smallest, 1.0), dice.uniform(0.75, 4 / 3)
    across, down = min(1.0, (area * ratio) ** 0.5), min(1.0, (area / ratio) ** 0.5)
    left, top = dice.uniform(0, 1 - across), dice.uniform(0, 1 - down)
    return View(left, top, across, down, dice.random() < 0.5, dice.uniform(0.7, 1.3), dice.uniform(0.5, 1.5))


def photos_of(step: int, photos: int, seed: int, *, at_once: int) -> list[int]:
    """The numbers of the photos of a step: every epoch has its own order."""
    steps = photos // at_once
    order = torch.randperm(photos, generator=torch.Generator().manual_seed(seed + step // steps))
    first = step % steps * at_once
    return order[first : first + at_once].tolist()


def scaled(
    pictures: Sequence[Image.Image], mean: Sequence[float], deviation: Sequence[float]
) -> Float[Tensor, "picture channel y x"]:
    """Pictures of the model's size as a network reads them: channels less their `mean`, over their `deviation`."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    return (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
