"""The photos that the miniature learns from, and the views of them that it is shown. Reads a prepared dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from captioncrafter.data.ahead import computed_ahead
from captioncrafter.data.captions import normalise
from captioncrafter.data.splits import CaptionedImage, CaptionedImages, load_splits
from captioncrafter.recipe import Data

from .dice import drawn_for

KEPT_SIZE = 256
"""Pixels along a side at which photos are kept in memory, and at which the teacher looks at them."""

SMALLEST_CROP = 0.2
"""The least share of a photo's area that a view shows."""


@dataclass(frozen=True)
class Photos:
    """A split in memory: photos squashed to a square, as the model's processor squashes them, with their captions."""

    pixels: UInt8[Tensor, "photo channel y x"]
    captions: Sequence[Sequence[str]]
    image_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.captions)


def load_photos(dataset: Path, device: torch.device) -> tuple[Photos, Photos]:
    """The training and the validation photos of a folder that `captioncrafter prepare` wrote."""
    splits = load_splits(Data(path=str(dataset)))
    return _in_memory(splits["train"], device), _in_memory(splits["validation"], device)


def _in_memory(split: CaptionedImages, device: torch.device) -> Photos:
    images = list(split)
    pixels = torch.from_numpy(np.stack(list(computed_ahead(_squashed, images)))).permute(0, 3, 1, 2).contiguous()
    captions = [[normalise(caption) for caption in image.captions] for image in images]
    return Photos(pixels.to(device), captions, [image.image_id for image in images])


def _squashed(image: CaptionedImage) -> UInt8[np.ndarray, "y x channel"]:
    return np.asarray(image.decode().resize((KEPT_SIZE, KEPT_SIZE), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Views:
    """What passers-by might have taken of some photos: a part of each, perhaps mirrored, in a little other light.

    `drawn` holds for each photo left, top, width and height of the part, as fractions of the photo's sides; whether it
    is mirrored; and how bright and how colourful it is, 1 being as it was.
    """

    drawn: Float[Tensor, "photo 7"]

    def to(self, device: torch.device) -> "Views":
        """The same views on `device`."""
        return Views(self.drawn.to(device))

    def of(self, photos: UInt8[Tensor, "photo channel y x"], size: int) -> Float[Tensor, "photo channel size size"]:
        """The views, `size` pixels along a side, from black 0 to white 1."""
        left, top, across, down, mirrored, brightness, colour = self.drawn[:, :, None].unbind(1)
        middles = (torch.arange(size, device=photos.device) + 0.5) / size
        along = mirrored + (1 - 2 * mirrored) * middles
        columns, rows = 2 * (left + across * along) - 1, 2 * (top + down * middles) - 1
        grid = torch.stack([columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1)
        seen = functional.grid_sample(photos.float() / 255, grid, padding_mode="border", align_corners=False)
        seen = (seen * brightness[:, :, None, None]).clamp(0, 1)
        red, green, blue = seen.unbind(1)
        grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]  # Pillow's
        return torch.lerp(grey, seen, colour[:, :, None, None]).clamp(0, 1)


def some_views(count: int, dice: torch.Generator, *, smallest: float = SMALLEST_CROP) -> Views:
    """Any `count` views that each show at least the share `smallest` of a photo's area."""

    def between(low: float, high: float) -> Float[Tensor, " photo"]:
        return low + (high - low) * torch.rand(count, generator=dice)

    area, ratio = between(smallest, 1.0), between(0.75, 4 / 3)
    across, down = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = between(0, 1) * (1 - across), between(0, 1) * (1 - down)
    mirrored = (between(0, 1) < 0.5).float()
    return Views(torch.stack([left, top, across, down, mirrored, between(0.7, 1.3), between(0.5, 1.5)], dim=1))


def whole(photos: UInt8[Tensor, "photo channel y x"], size: int) -> Float[Tensor, "photo channel size size"]:
    """The whole photos, `size` pixels along a side, from black 0 to white 1, as the model's processor scales them."""
    pixels = photos.float() / 255
    if photos.shape[-1] == size:
        return pixels
    return functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def photos_of(step: int, photos: int, seed: int, *, at_once: int) -> list[int]:
    """The numbers of the photos of a step: every epoch has its own order."""
    steps = photos // at_once
    order = torch.randperm(photos, generator=drawn_for(seed, -1 - step // steps))
    first = step % steps * at_once
    return order[first : first + at_once].tolist()


def scaled(
    pixels: Float[Tensor, "picture channel y x"], mean: Sequence[float], deviation: Sequence[float]
) -> Float[Tensor, "picture channel y x"]:
    """Pixels from 0 to 1 as a network reads them: channels less their `mean`, over their `deviation`."""
    channels = zip(pixels.unbind(1), mean, deviation, strict=True)
    return torch.stack([(channel - middle) / spread for channel, middle, spread in channels], dim=1)
