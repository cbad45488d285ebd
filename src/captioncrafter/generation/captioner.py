"""A model that captions images: a base, an adapter if any, the prompt and decoding the adapter was tuned with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from captioncrafter import recipe, storage
from captioncrafter.data.images import ImageLike, decode_image
from captioncrafter.errors import CheckpointError, InputError
from captioncrafter.features.extract import pixel_values
from captioncrafter.generation.decode import decode, overridden
from captioncrafter.generation.origin import CAPTIONING, Origin
from captioncrafter.model import checkpoint, hardware, lora
from captioncrafter.model.cut import Cut
from captioncrafter.model.loading import load_model
from captioncrafter.model.prefix import context_of
from captioncrafter.model.prompts import Prompt, encode_prompt, stacked
from captioncrafter.model.stock import Blip2, Processor, Tuned


def write_captioning(
    folder: Path, base: checkpoint.Checkpoint, *, prompt: str, decoding: recipe.Decoding, precision: str
) -> None:
    """Writes `captioning.json` beside an adapter: what it must be used with to do what it was tuned for."""
    facts = {**base.describe(), "prompt": prompt, "precision": precision, "decoding": decoding.model_dump()}
    storage.write_json(folder / CAPTIONING, facts)


@dataclass(frozen=True)
class Captioner:
    """Captions images. Make one with `Captioner.load`."""

    model: Blip2
    processor: Processor
    prompt: Prompt
    decoding: recipe.Decoding
    tuned: Tuned | None = None
    merged: bool = False

    @classmethod
    def load(
        cls,
        base: str | None = None,
        *,
        adapter: str | Path | None = None,
        revision: str | None = None,
        prompt: str | None = None,
        precision: recipe.Precision | None = None,
        device: str = "auto",
        merge: bool = False,
    ) -> "Captioner":
        """A captioner of `base` (hub name, folder or bundled name), with `adapter` (a folder) where given.

        With an adapter alone, base, prompt, precision and decoding are those it was tuned with; with neither, the
        embedded miniature captions. `merge` adds the adapter into the base's weights: faster, with other rounding.
        Raises `CheckpointError` when either is missing, damaged, or the two do not belong together.
        """
        origin = Origin.of(base, adapter=adapter, revision=revision, prompt=prompt, precision=precision)
        return cls.from_origin(origin, device=device, merge=merge)

    @classmethod
    def from_origin(cls, origin: Origin, *, device: str = "auto", merge: bool = False) -> "Captioner":
        """The captioner that `origin` tells of; see `load`."""
        found = checkpoint.find(origin.base, origin.revision)
        check_base(found, origin)
        where = hardware.device_for(device)
        arithmetic = hardware.arithmetic_for(origin.precision, where)
        processor = checkpoint.load_processor(found)
        model = load_model(found, arithmetic=arithmetic, device=where)
        tuned = None
        merged = merge and origin.adapter is not None
        if origin.adapter is not None:
            tuned = lora.load_adapter(model, origin.adapter)
            if merged:
                model, tuned = lora.merge(tuned), None
        return cls(model, processor, encode_prompt(processor, origin.prompt), origin.decoding, tuned, merged)

    def caption(self, images: Sequence[ImageLike] | ImageLike, **decoding: Any) -> list[str]:
        """One caption for each image (paths, bytes or PIL images), in order.

        `decoding` overrides single settings: `num_beams=3`, `sample=True`, `temperature=0.7`, … Raises `DataError`
        naming the first image that cannot be read, `InputError` for a setting that is unknown, impossible or without
        effect: see `with_decoding`. What sampling draws depends on the seed, the batch size and an image's place.
        """
        if isinstance(images, str | PathLike | bytes | Image.Image):
            images = [images]
        settings = self.with_decoding(**decoding).decoding
        captions: list[str] = []
        for start in range(0, len(images), settings.images_per_batch):
            batch = [decode_image(image) for image in images[start : start + settings.images_per_batch]]
            captions += self.caption_batch(batch, settings, first=start)
        return captions

    def with_decoding(self, **decoding: Any) -> "Captioner":
        """The same captioner with some decoding settings replaced; `sample=True` without `num_beams` means one beam.

        Raises `InputError` for a setting that the way of decoding they make would not read: `temperature`, `top_p` or
        `seed` without sampling, `length_penalty` with one beam. A whole decoding is taken as it is.
        """
        return replace(self, decoding=overridden(self.decoding, decoding)) if decoding else self

    @contextmanager
    def without_adapter(self) -> Iterator["Captioner"]:
        """Within, the captioner is the base alone: same prompt, same decoding.

        Raises `InputError` when the adapter was merged: it cannot be taken out again.
        """
        if self.merged:
            raise InputError(
                "the adapter is merged into the base's weights and cannot be taken out. "
                "Load the captioner without merge=True, or load the base alone."
            )
        with self.tuned.disable_adapter() if self.tuned is not None else nullcontext():
            yield self

    def caption_batch(
        self,
        images: Sequence[Image.Image],
        settings: recipe.Decoding,
        *,
        first: int = 0,
        prompts: Sequence[str | None] | None = None,
    ) -> list[str]:
        """One caption for each decoded RGB image, all in one batch; `first` is the place of its first among all.

        `prompts` are the images' own; where one is None, or none are given, the captioner's prompt stands.
        """
        texts = [None] * len(images) if prompts is None else prompts
        encoded = [self.prompt if text is None else encode_prompt(self.processor, text) for text in texts]
        device = self.model.device
        rows = stacked(encoded, pad_id=self.model.config.text_config.pad_token_id).to(device)
        with torch.no_grad():
            context = context_of(self.model, pixel_values(self.processor, images).to(device), Cut.IMAGES, rows)
        return decode(self.model, self.processor, context, settings, first=first)


def check_base(found: checkpoint.Checkpoint, origin: Origin) -> None:
    """Raises `CheckpointError` when the base that was found is not the one that the adapter was tuned on."""
    if origin.tuned_on is not None and found.describe()["weights"] != origin.tuned_on:
        named = Origin.of(adapter=origin.adapter)
        raise CheckpointError(
            f"{origin.adapter}: tuned on other weights than those of {found.name} ({found.folder}). Use the base it "
            f"names, {named.base}" + (f" at {named.revision}." if named.revision else ".")
        )
