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

SMALLEST_CROP = 0.35
"""The least share of a photo's area that a view shows."""


@dataclass(frozen=True)
class Photos:
    """A split in memory: photos squashed to the model's square, as its processor squashes them, with their captions."""

    pixels: UInt8[np.ndarray, "photo y x channel"]
    captions: Sequence[Sequence[str]]
    image_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.pixels)

    def picture(self, photo: int) -> Image.Image:
        """The whole photo."""
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
    return np.asarray(image.decode().resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def view(picture: Image.Image, dice: random.Random, *, smallest: float = SMALLEST_CROP) -> Image.Image:
    """A part of the picture, now and then mirrored, in a little other light: what a passer-by might have taken."""
    width, height = picture.size
    area, ratio = dice.uniform(smallest, 1.0), dice.uniform(0.75, 4 / 3)
    across, down = min(1.0, (area * ratio) ** 0.5) * width, min(1.0, (area / ratio) ** 0.5) * height
    left, top = dice.uniform(0, width - across), dice.uniform(0, height - down)
    part = picture.resize(
        (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=(left, top, left + across, top + down)
    )
    if dice.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    part = ImageEnhance.Brightness(part).enhance(dice.uniform(0.8, 1.2))
    return ImageEnhance.Color(part).enhance(dice.uniform(0.8, 1.2))


def scaled(
    pictures: Sequence[Image.Image], mean: Sequence[float], deviation: Sequence[float]
) -> Float[Tensor, "picture channel y x"]:
    """Pictures of the model's size as a network reads them: channels less their `mean`, over their `deviation`."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    return (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
