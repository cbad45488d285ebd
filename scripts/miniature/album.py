"""Photos as the language half meets them: what the seeing half makes of some views of each, worked out once."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float16
from PIL import Image
from torch import Tensor

from captioncrafter.data.ahead import computed_ahead
from captioncrafter.metrics.references import References

from .photos import WHOLE, Photos, View, some_view

Look = Callable[[Sequence[Image.Image]], Float[Tensor, "picture token width"]]

TELLING_CROP = 0.7
"""The least share of a photo that a view shows whose captions are to stay true."""

LOST = 0.3
"""Of a training photo's vision tokens; others of the same photo stand in for them."""

NOISE = 0.3
"""Added to a training photo's vision tokens, in standard deviations of each channel."""


@dataclass(frozen=True)
class Album:
    """A split's photos as vision tokens, view by view, the whole photo first; with the captions people gave them."""

    tokens: Float16[Tensor, "view photo token width"]
    captions: Sequence[Sequence[str]]
    image_ids: Sequence[str]
    spread: Float[Tensor, " width"]
    """Standard deviation of each channel."""

    def __len__(self) -> int:
        return len(self.captions)

    def shown(self, photos: Sequence[int], dice: random.Random) -> Float[Tensor, "photo token width"]:
        """Some view of each of the photos, not as clear as it could be: so sharp are only photos seen in training."""
        views = [dice.randrange(len(self.tokens)) for _ in photos]
        tokens = self.tokens[views, list(photos)].float()
        drawn = torch.Generator().manual_seed(dice.getrandbits(32))
        places, width = tokens.shape[1:]
        others = torch.randint(0, places, (len(photos), places), generator=drawn)
        lost = torch.rand(len(photos), places, generator=drawn) < LOST
        read = torch.where(lost, others, torch.arange(places))
        tokens = tokens.gather(1, read[:, :, None].expand(-1, -1, width))
        return tokens + NOISE * self.spread * torch.randn(tokens.shape, generator=drawn)

    def references(self) -> References:
        """The captions as a scorer takes them."""
        return References(dict(zip(self.image_ids, self.captions, strict=True)))


def album_of(photos: Photos, look: Look, *, views: int, seed: int) -> Album:
    """The photos seen whole, and for training mirrored and in part: `views` times in all."""

    def seen(start: int) -> Float16[Tensor, "view photo token width"]:
        numbers = range(start, min(start + 32, len(photos)))
        return torch.stack(
            [look([_view(photos, number, kind, seed) for number in numbers]).half() for kind in range(views)]
        )

    tokens = torch.cat(list(computed_ahead(seen, range(0, len(photos), 32), ahead=1)), dim=1)
    spread = tokens[0, ::10].float().std((0, 1))  # every tenth photo is enough
    return Album(tokens, photos.captions, photos.image_ids, spread)


def _view(photos: Photos, number: int, kind: int, seed: int) -> Image.Image:
    if kind == 0:
        return WHOLE.of(photos.picture(number))
    if kind == 1:
        return View(mirrored=True).of(photos.picture(number))
    dice = random.Random(f"{seed}/album/{kind}/{number}")
    return some_view(dice, smallest=TELLING_CROP).of(photos.picture(number))
