"""Runs the frozen half once per image and keeps what it gives.

Decoding and preprocessing happen in threads beside the model, so that the device does not wait for JPEGs.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from captioncrafter import events
from captioncrafter.features.store import FeatureStore
from captioncrafter.model.captioning import query_outputs
from captioncrafter.model.stock import Blip2, Processor

_PART_IMAGES = 256
_BATCHES_AHEAD = 2


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
    with events.progress("features", len(images), done=len(images) - len(missing)) as bar:
        for start in range(0, len(missing), _PART_IMAGES):
            part = missing[start : start + _PART_IMAGES]
            computed = []
            for pixels in _pixels(processor, [images[image] for image in part], images_per_batch):
                computed.append(query_outputs(model, pixels.to(model.device)).float().cpu())
                bar.advance(len(pixels))
            store.add(part, torch.cat(computed), stored_as=stored_as)
    return len(missing)


def _pixels(
    processor: Processor, decoders: Sequence[Callable[[], Image.Image]], images_per_batch: int
) -> Iterator[Float[Tensor, "image channel height width"]]:
    def prepare(start: int) -> Tensor:
        return pixel_values(processor, [decode() for decode in decoders[start : start + images_per_batch]])

    with ThreadPoolExecutor(max_workers=_BATCHES_AHEAD) as pool:
        starts = iter(range(0, len(decoders), images_per_batch))
        running = [pool.submit(prepare, start) for start in islice(starts, _BATCHES_AHEAD)]
        while running:
            yield running.pop(0).result()
            running.extend(pool.submit(prepare, start) for start in islice(starts, 1))


def pixel_values(processor: Processor, images: Sequence[Image.Image]) -> Float[Tensor, "image channel height width"]:
    """The processor's own resizing and normalisation of RGB `images`."""
    image_processor = processor.image_processor
    return image_processor(list(images), return_tensors="pt").pixel_values
