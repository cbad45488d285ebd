"""Runs the frozen prefix once per image and keeps what it gives.

Decoding and preprocessing happen in threads beside the model, image by image, so that the device does not wait for
JPEGs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from captioncrafter import events, recipe
from captioncrafter.data.ahead import computed_ahead, decoding_threads
from captioncrafter.features.store import FeatureStore
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import features_at
from captioncrafter.model.prompts import Prompt, stacked
from captioncrafter.model.stock import Blip2, Processor

_PART_IMAGES = 256


@dataclass(frozen=True)
class Wanted:
    """An image whose features are wanted: how to get it as RGB, and the prompt that goes with it."""

    decode: Callable[[], Image.Image]
    prompt: Prompt


def extract(
    model: Blip2,
    processor: Processor,
    cut: Cut,
    wanted: dict[str, Wanted],
    store: FeatureStore,
    *,
    device: torch.device,
    features: recipe.Features,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Computes and stores those features of `wanted` (by name) that `store` lacks; gives how many that were.

    Once `stop` says so it ends after the batch at work. What was stored then, or when this is interrupted, is kept:
    the next call goes on from there.
    """
    missing = store.missing(wanted)
    if not missing:
        return 0
    done, size = 0, features.images_per_batch

    def prepare(name: str) -> Float[Tensor, "1 channel row column"]:
        return pixel_values(processor, [wanted[name].decode()])

    with events.progress("features", len(wanted), done=len(wanted) - len(missing)) as bar:
        parts = _parts(missing, wanted)
        ready = computed_ahead(prepare, chain.from_iterable(parts), ahead=2 * size, threads=decoding_threads())
        for part in parts:
            batches = [part[at : at + size] for at in range(0, len(part), size)]
            computed: list[Tensor] = []
            for batch in batches:
                pixels = torch.cat(list(islice(ready, len(batch))))
                prompts = stacked([wanted[name].prompt for name in batch], pad_id=0).to(device)
                computed.append(features_at(model, pixels.to(device), cut, prompts).float().cpu())
                bar.advance(len(batch))
                if stop():
                    break
            rows = torch.cat(computed)
            store.add(part[: len(rows)], rows, stored_as=features.dtype)
            done += len(rows)
            if stop():
                break
    return done


def _parts(names: Sequence[str], wanted: dict[str, Wanted]) -> list[list[str]]:
    """Runs of names whose prompts are equally long, so that nothing of what is stored is padding."""
    by_length = sorted(names, key=lambda name: len(wanted[name].prompt))
    groups = [list(group) for _, group in groupby(by_length, key=lambda name: len(wanted[name].prompt))]
    return [group[at : at + _PART_IMAGES] for group in groups for at in range(0, len(group), _PART_IMAGES)]


def pixel_values(processor: Processor, images: Sequence[Image.Image]) -> Float[Tensor, "image channel row column"]:
    """The processor's own resizing and normalisation of RGB `images`."""
    image_processor = processor.image_processor
    return image_processor(list(images), return_tensors="pt").pixel_values
