"""The frozen half of a training: what it makes of every image goes to disk, then it leaves memory."""

import gc
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from captioncrafter import events, recipe, storage
from captioncrafter.data.captions import normalise
from captioncrafter.data.splits import CaptionedImage, CaptionedImages
from captioncrafter.errors import DataError, counted
from captioncrafter.features.extract import Wanted, extract, pixel_values
from captioncrafter.features.key import feature_key, feature_name
from captioncrafter.features.store import FeatureStore
from captioncrafter.model.checkpoint import image_token_id
from captioncrafter.model.cut import Cut
from captioncrafter.model.prompts import Prompt
from captioncrafter.model.stock import Blip2
from captioncrafter.stages.base import Base
from captioncrafter.stages.run_start import stop_before_the_first_step
from captioncrafter.training import guard
from captioncrafter.training.packing import TokenIds, encode_captions
from captioncrafter.training.preflight import check_inputs
from captioncrafter.training.probe import Probe, observe
from captioncrafter.training.processes import Processes

_PROBED_IMAGES = 4
_SMALLEST_CROP = 0.8
_NEVER = guard.StopRequest()


def open_store(base: Base, features: recipe.Features) -> FeatureStore | None:
    """The store of this base's features, with what earlier runs computed; None where nothing can be stored."""
    if base.cut is Cut.IMAGES:
        return None
    key = feature_key(
        base.checkpoint,
        base.processor,
        base.cut,
        computed_in=base.arithmetic.name,
        stored_as=features.dtype,
    )
    root = storage.user_path(features.folder) if features.folder else storage.cache_folder()
    return FeatureStore.open(root, key)


def extract_and_observe(
    base: Base,
    splits: dict[str, CaptionedImages],
    store: FeatureStore | None,
    options: recipe.Recipe,
    processes: Processes,
    stop: guard.StopRequest = _NEVER,
) -> Probe:
    """Fills the store with the features of training and validation images, each process its share of them.

    Gives the probe that preflight holds the training step against; the frozen half is out of memory afterwards. Raises
    `Stopped` when `stop` asks for it, with what was computed in the store.
    """
    chosen = _first_different(base, splits["train"])
    prompts = [base.prompt_of(image) for image in chosen]
    captions = [caption_ids(base, image, options)[0] for image in chosen]
    check_inputs(prompts, captions, queries=base.config.num_query_tokens, image_token=image_token_id(base.processor))
    model = base.load_frozen()
    if store is not None:
        _fill(base, model, splits, store, options.features, processes, stop)
    names = [feature_name(image.content, prompt, base.cut) for image, prompt in zip(chosen, prompts, strict=True)]
    pixels = pixel_values(base.processor, [image.decode() for image in chosen])
    features = store.rows(names) if store is not None else None
    probe = observe(model, base.cut, pixels, features, prompts, captions, base.device)
    del model
    gc.collect()
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
    return probe


def _fill(
    base: Base,
    model: Blip2,
    splits: dict[str, CaptionedImages],
    store: FeatureStore,
    features: recipe.Features,
    processes: Processes,
    stop: guard.StopRequest,
) -> None:
    wanted = {
        feature_name(image.content, base.prompt_of(image), base.cut): Wanted(image.decode, base.prompt_of(image))
        for name in ("train", "validation")
        for image in splits[name]
    }
    computed = extract(
        model,
        base.processor,
        base.cut,
        {name: wanted[name] for name in processes.share(list(wanted))},
        store,
        device=base.device,
        features=features,
        stop=lambda: stop.code != guard.GO_ON,
    )
    computed = sum(processes.everywhere(computed))
    stop_before_the_first_step(stop, processes)
    store.refresh()
    events.say(
        f"features of {counted(len(wanted), 'image')}: {computed} computed, {len(wanted) - computed} from "
        f"{store.folder}"
    )


def _first_different(base: Base, images: CaptionedImages) -> list[CaptionedImage]:
    """Some different images, with the same prompt if there are such, so that only the image differs."""
    by_prompt: dict[str, dict[str, CaptionedImage]] = {}
    for image in images:
        found = by_prompt.setdefault(base.prompt_of(image).text, {})
        found.setdefault(image.content, image)
        if len(found) == _PROBED_IMAGES:
            return list(found.values())
    largest = max(by_prompt.values(), key=len)
    if len(largest) < 2:
        largest = {image.content: image for found in by_prompt.values() for image in found.values()}
    if len(largest) < 2:
        raise DataError("training needs two different images or more; the training split holds one picture only.")
    return list(largest.values())[:_PROBED_IMAGES]


def caption_ids(base: Base, image: CaptionedImage, options: recipe.Recipe) -> tuple[list[TokenIds], int]:
    """Token ids of the captions of `image` that are trained on, and how many of them had to be cut."""
    texts = [normalise(caption) for caption in image.captions][: options.data.captions_per_image]
    worded = [text for text in texts if text]
    if not worded:
        return [], 0
    prompt = base.prompt_of(image).text
    limit = options.training.max_caption_tokens
    return encode_captions(base.processor.tokenizer, worded, base.config, prompt=prompt, max_tokens=limit)


@dataclass(frozen=True)
class Stored:
    """Training images from the store: the same features in every epoch."""

    store: FeatureStore
    names: Sequence[str]

    def __call__(self, images: Sequence[int], *, step: int) -> Tensor:
        """The features of `images`, by their position in the training images."""
        del step
        return self.store.rows([self.names[image] for image in images])


@dataclass(frozen=True)
class Decoded:
    """Training images from their files in every step, cropped at random where the recipe says so."""

    base: Base
    decoders: Sequence[Callable[[], Image.Image]]
    augment: bool
    seed: int

    def __call__(self, images: Sequence[int], *, step: int) -> Tensor:
        """The pixels of `images`, by their position in the training images; the crop is a function of seed and step."""
        pictures = [self.decoders[image]() for image in images]
        if self.augment:
            pictures = [self._cropped(one, f"{step} {at}") for at, one in zip(images, pictures, strict=True)]
        return pixel_values(self.base.processor, pictures)

    def _cropped(self, picture: Image.Image, place: str) -> Image.Image:
        draw = random.Random(hashlib.sha256(f"{self.seed} {place}".encode()).digest())
        share = draw.uniform(_SMALLEST_CROP, 1.0) ** 0.5
        width, height = max(1, round(picture.width * share)), max(1, round(picture.height * share))
        left, top = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
        return picture.crop((left, top, left + width, top + height))


def source_of(
    base: Base, images: CaptionedImages, prompts: Sequence[Prompt], store: FeatureStore | None, options: recipe.Recipe
) -> Stored | Decoded:
    """What training starts from in each step."""
    if store is None:
        decoders = [image.decode for image in images]
        return Decoded(base, decoders, augment=options.data.augment != "none", seed=options.seed)
    pairs = zip(images, prompts, strict=True)
    return Stored(store, [feature_name(image.content, prompt, base.cut) for image, prompt in pairs])
