"""What a run starts from: the checkpoint, how it computes, what will train, and so where its frozen prefix ends."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from captioncrafter import events, recipe
from captioncrafter.data.splits import CaptionedImage
from captioncrafter.model import checkpoint, hardware, lora, weights
from captioncrafter.model.cut import Cut, deepest_cut, parts_after, parts_before
from captioncrafter.model.loading import load_model
from captioncrafter.model.prompts import Prompt, encode_prompt
from captioncrafter.model.stock import Blip2, Processor

_PROJECTION = "language_projection"


@dataclass(frozen=True)
class Base:
    """A checkpoint that is about to be tuned; no weight of it is in memory yet.

    `layers` are the full names of all layers in which something will train, `cut` the deepest point before them.
    """

    checkpoint: checkpoint.Checkpoint
    config: Any
    processor: Processor
    device: torch.device
    arithmetic: hardware.Arithmetic
    layers: tuple[str, ...]
    cut: Cut
    prompt: str

    @classmethod
    def of(cls, options: recipe.Recipe, device: torch.device) -> "Base":
        """What the recipe names; raises before anything large is read when it does not fit together."""
        found = checkpoint.find(options.model.base, options.model.revision)
        arithmetic = hardware.arithmetic_for(options.model.precision, device)
        config = checkpoint.load_config(found)
        layers = tuple(lora.planned_layers(config, options.lora))
        cut = deepest_cut(config, layers, augmented=options.data.augment != "none")
        processor = checkpoint.load_processor(found)
        return cls(found, config, processor, device, arithmetic, layers, cut, options.model.prompt)

    @cached_property
    def stored(self) -> dict[str, weights.StoredTensor]:
        """The checkpoint's tensors by name."""
        return weights.stored_tensors(self.checkpoint.folder)

    @cached_property
    def prompt_of(self) -> Callable[[CaptionedImage], Prompt]:
        """The prompt that goes with an image: its own where the dataset has one, else the recipe's."""
        encoded: dict[str, Prompt] = {}

        def prompt_of(image: CaptionedImage) -> Prompt:
            text = self.prompt if image.prompt is None else image.prompt
            if text not in encoded:
                encoded[text] = encode_prompt(self.processor, text)
            return encoded[text]

        return prompt_of

    def load_frozen(self) -> Blip2:
        """The part before the cut, and what the stock model makes of it on the way to the language model.

        The rest is not in memory.
        """
        if self.cut is Cut.IMAGES:
            return self._load(parts_after(self.config, self.cut), "whole model")
        parts = {*parts_before(Cut.QFORMER), *parts_before(self.cut), _PROJECTION}
        return self._load(tuple(sorted(parts)), "frozen part")

    def load_trained(self) -> Blip2:
        """The part behind the cut; the rest is not in memory."""
        return self._load(parts_after(self.config, self.cut), "part that every step runs")

    def _load(self, parts: tuple[str, ...], what: str) -> Blip2:
        model = load_model(self.checkpoint, arithmetic=self.arithmetic, device=self.device, parts=parts)
        count = sum(parameter.numel() for parameter in model.parameters() if not parameter.is_meta)
        events.say(
            f"{self.checkpoint.name}, {what}: {count / 1e6:,.1f} M parameters in {self.arithmetic.name} on "
            f"{self.device}"
        )
        return model
