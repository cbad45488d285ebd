"""Runs the frozen half once per image and keeps what it gives.

Decoding and preprocessing happen in threads beside the model, so that the device does not wait for JPEGs.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from captioncrafter import events
from captioncrafter.data.ahead import computed_ahead
from captioncrafter.features.store import FeatureStore
from captioncrafter.model.captioning import query_outputs
from captioncrafter.model.stock import Blip2, Processor

_PART_IMAGES = 256


def extract(
    model: Blip2,
    processor: Processor,
    images: dict[str, Callable[[], Image.Image]],
    store: FeatureStore,
    *,
    images_per_batch: int,
    stored_as: str,
) -> int:
    """Computes and stores the features of those of `images` that `store` lacks; gives how many that were.

    `images` maps the hash of an image's bytes to a call that decodes it to RGB. What was stored when this is
    interrupted is kept: the next call goes on from there.
    """
    missing = store.missing(images)
    if not missing:
        return 0

    def prepare(batch: Sequence[str]) -> Float[Tensor, "image channel row column"]:
        return pixel_values(processor, [images[image]() for image in batch])

    with events.progress("features", len(images), done=len(images) - len(missing)) as bar:
        for start in range(0, len(missing), _PART_IMAGES):
            part = missing[start : start + _PART_IMAGES]
            batches = [part[at : at + images_per_batch] for at in range(0, len(part), images_per_batch)]
            computed = []
            for pixels in computed_ahead(prepare, batches):
                computed.append(query_outputs(model, pixels.to(model.device)).float().cpu())
                bar.advance(len(pixels))
            store.add(part, torch.cat(computed), stored_as=stored_as)
    return len(missing)


def pixel_values(processor: Processor, images: Sequence[Image.Image]) -> Float[Tensor, "image channel row column"]:
    """The processor's own resizing and normalisation of RGB `images`."""
    image_processor = processor.image_processor
    return image_processor(list(images), return_tensors="pt").pixel_values
