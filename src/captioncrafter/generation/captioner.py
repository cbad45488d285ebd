"""A model that captions images: a base, an adapter if any, the prompt and decoding the adapter was tuned with."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from captioncrafter import events, recipe, runs
from captioncrafter.data.images import ImageLike, decode_image
from captioncrafter.errors import CheckpointError
from captioncrafter.features.extract import pixel_values
from captioncrafter.generation.decode import decode
from captioncrafter.model import checkpoint, hardware, lora
from captioncrafter.model.captioning import Prompt, encode_prompt, query_outputs
from captioncrafter.model.stock import Blip2, Processor, Tuned

CAPTIONING = "captioning.json"
DEFAULT_BASE = "miniature"


def write_captioning(
    folder: Path, base: checkpoint.Checkpoint, *, prompt: str, decoding: recipe.Decoding, precision: str
) -> None:
    """Writes `captioning.json` beside an adapter: what it must be used with to do what it was tuned for."""
    facts = {**base.describe(), "prompt": prompt, "precision": precision, "decoding": decoding.model_dump()}
    runs.write_json(folder / CAPTIONING, facts)


@dataclass(frozen=True)
class Captioner:
    """Captions images. Make one with `Captioner.load`."""

    model: Blip2
    processor: Processor
    prompt: Prompt
    decoding: recipe.Decoding
    tuned: Tuned | None = None

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
        settings = _settings(adapter)
        found = checkpoint.find(
            base or settings.get("base", DEFAULT_BASE), revision or (settings.get("revision") if base is None else None)
        )
        _check_base(found, settings, adapter)
        where = hardware.device_for(device)
        dtype = hardware.dtype_for(precision or settings.get("precision", "auto"), where)
        processor = checkpoint.load_processor(found)
        model = checkpoint.load_model(found, dtype=dtype, device=where)
        tuned = None
        if adapter is not None:
            tuned = lora.load_adapter(model, Path(adapter))
            if merge:
                model, tuned = lora.merge(tuned), None
        words = prompt if prompt is not None else settings.get("prompt", recipe.Model().prompt)
        decoding = recipe.check_decoding(settings.get("decoding", {}), source=f"{adapter}/{CAPTIONING}, decoding")
        return cls(model, processor, encode_prompt(processor, words), decoding, tuned)

    def caption(self, images: Sequence[ImageLike] | ImageLike, **decoding: Any) -> list[str]:
        """One caption for each image (paths, bytes or PIL images), in order.

        `decoding` overrides single settings: `num_beams=3`, `sample=True`, `temperature=0.7`, … Raises `DataError`
        naming the first image that cannot be read, `InputError` for an unknown or impossible setting.
        """
        if isinstance(images, str | PathLike | bytes | Image.Image):
            images = [images]
        settings = self.with_decoding(**decoding).decoding
        captions: list[str] = []
        for start in range(0, len(images), settings.images_per_batch):
            batch = [decode_image(image) for image in images[start : start + settings.images_per_batch]]
            captions += self.caption_batch(batch, settings)
        return captions

    def with_decoding(self, **decoding: Any) -> "Captioner":
        """The same captioner with some decoding settings replaced."""
        if not decoding:
            return self
        return replace(self, decoding=recipe.check_decoding(self.decoding.model_dump() | decoding))

    @contextmanager
    def without_adapter(self) -> Iterator["Captioner"]:
        """Within, the captioner is the base alone: same prompt, same decoding. A merged adapter cannot be taken out."""
        with self.tuned.disable_adapter() if self.tuned is not None else nullcontext():
            yield self

    def caption_batch(self, images: Sequence[Image.Image], settings: recipe.Decoding) -> list[str]:
        """One caption for each decoded RGB image, all in one batch."""
        pixels = pixel_values(self.processor, images).to(self.model.device)
        features = query_outputs(self.model, pixels)
        return decode(self.model, self.processor, features, self.prompt, settings)


def _settings(adapter: str | Path | None) -> dict[str, Any]:
    if adapter is None:
        return {}
    file = Path(adapter) / CAPTIONING
    if file.is_file():
        return runs.read_json(file)
    lora.stored_adapter(Path(adapter))
    events.warn(f"{adapter}: no {CAPTIONING}; using the default prompt and decoding, and the base that is named.")
    named = json.loads((Path(adapter) / lora.ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return {"base": named["base_model_name_or_path"], "revision": named.get("revision")}


def _check_base(found: checkpoint.Checkpoint, settings: dict[str, Any], adapter: str | Path | None) -> None:
    expected = settings.get("weights")
    if expected is not None and found.describe()["weights"] != expected:
        raise CheckpointError(
            f"{adapter}: tuned on other weights than those of {found.name} ({found.folder}). Use the base it names, "
            f"{settings.get('base')}" + (f" at {settings['revision']}." if settings.get("revision") else ".")
        )
