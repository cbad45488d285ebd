"""Which layers of a BLIP-2 a recipe's `[lora]` reaches, by their full names in the stock model.

A preset is resolved by the model's configuration, so the answer is known before any weight is read.
"""

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from captioncrafter import recipe
from captioncrafter.errors import RecipeError, counted
from captioncrafter.model.cut import is_decoder_only

PROJECTION = "language_projection"

_PRESETS = {
    "fast": ("language_model.decoder",),
    "efficient": ("language_model",),
    "quality": ("language_model", "qformer"),
    "full-bridge": ("language_model", "qformer"),
}
_ATTENTION = {"t5": ("q", "v"), "opt": ("q_proj", "v_proj"), "qformer": ("query", "value"), "vision_model": ("qkv",)}


@dataclass(frozen=True)
class Reach:
    """A recipe's `[lora]` for one kind of model: layers of `parts` that end in one of `targets`, or match `pattern`."""

    parts: tuple[str, ...]
    targets: tuple[str, ...]
    pattern: str | None
    projection: bool


def reach_of(config: Any, lora: recipe.Lora) -> Reach:
    """What `lora` means for a model of this `Blip2Config`.

    Raises `RecipeError` when it names the encoder of a language model that has none.
    """
    parts = tuple(dict.fromkeys(_located(config, part) for part in lora.parts or _PRESETS[lora.preset]))
    targets = lora.targets or tuple(dict.fromkeys(name for part in parts for name in _usual_targets(config, part)))
    projection = lora.preset == "full-bridge" if lora.train_projection is None else lora.train_projection
    return Reach(parts, targets, lora.pattern, projection)


def _located(config: Any, part: str) -> str:
    if not is_decoder_only(config):
        return part
    if part == "language_model.encoder":
        raise RecipeError(
            f'lora.parts "{part}": the language model of this base ({config.text_config.model_type}) has no encoder. '
            'Name "language_model".'
        )
    return "language_model" if part == "language_model.decoder" else part


def _usual_targets(config: Any, part: str) -> tuple[str, ...]:
    if part.startswith("language_model"):
        return _ATTENTION["opt" if is_decoder_only(config) else "t5"]
    return _ATTENTION[part]


def planned_layers(config: Any, lora: recipe.Lora) -> list[str]:
    """Full names of all layers in which something will train, in model order, from a `Blip2Config` alone.

    The model is built without memory for its weights: a tenth of a second for blip2-flan-t5-xl. Raises as
    `target_layers` does.
    """
    from transformers import Blip2ForConditionalGeneration

    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config)
    reached = {*target_layers(model, lora), *([PROJECTION] if reach_of(config, lora).projection else [])}
    return [name for name, _ in model.named_modules() if name in reached]


def target_layers(model: Any, lora: recipe.Lora) -> list[str]:
    """Full names of the linear layers that get an adapter, in model order; quantised ones are linear too.

    Raises `RecipeError` when one of the targets, or the pattern, matches none.
    """
    reach = reach_of(model.config, lora)
    linear = linear_layers(model)
    inside = [name for name in linear if _within(name, reach.parts)]
    if reach.pattern is None:
        for target in reach.targets:
            if not any(_ends_with(name, target) for name in inside):
                raise RecipeError(_no_match(target, reach.parts, linear, inside))
        return [name for name in inside if any(_ends_with(name, target) for target in reach.targets)]
    found = [name for name in linear if re.fullmatch(reach.pattern, name)]
    if not found:
        raise RecipeError(_no_pattern_match(reach.pattern, linear))
    if reach.projection and PROJECTION in found:
        raise RecipeError(
            f'lora.pattern "{reach.pattern}" matches {PROJECTION}, which is already trained whole. '
            "Leave it out of the pattern, or set lora.train_projection = false."
        )
    return found


def linear_layers(model: nn.Module) -> list[str]:
    """Full names of the layers that can carry an adapter, in model order."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def peft_pattern(model: Any, lora: recipe.Lora) -> str:
    """The regular expression for PEFT's `target_modules` that matches exactly `target_layers`, by full name."""
    reach, layers = reach_of(model.config, lora), target_layers(model, lora)
    pattern = reach.pattern or _words(reach)
    matched = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    return pattern if matched == layers else "|".join(re.escape(name) for name in layers)


def _words(reach: Reach) -> str:
    parts = "|".join(re.escape(part) for part in reach.parts)
    targets = "|".join(re.escape(target) for target in reach.targets)
    return rf"(?:{parts})\.(?:.*\.)?(?:{targets})"


def _within(name: str, parts: tuple[str, ...]) -> bool:
    return name.startswith(tuple(f"{part}." for part in parts))


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _no_match(target: str, parts: tuple[str, ...], linear: list[str], inside: list[str]) -> str:
    counts = Counter(name.rsplit(".", 1)[-1] for name in inside)
    near = difflib.get_close_matches(target, counts, n=1, cutoff=0.3)
    elsewhere = sum(_ends_with(name, target) for name in linear)
    return (
        f'lora.targets "{target}" matches no layer of {", ".join(parts)}'
        + (f" (though {elsewhere} outside of it)" if elsewhere else "")
        + "."
        + (f' Closest: "{near[0]}" ({counted(counts[near[0]], "layer")}).' if near else "")
        + f" Layers there: {_listed(counts)}."
    )


def _no_pattern_match(pattern: str, linear: list[str]) -> str:
    partial = next((name for name in linear if re.search(pattern, name)), None)
    hint = f' It must match full names; "{partial}" has it inside.' if partial else ""
    counts = Counter(name.rsplit(".", 1)[-1] for name in linear)
    return f'lora.pattern "{pattern}" matches no linear layer of this model.{hint} Their last words: {_listed(counts)}.'


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())
