"""A model by its configuration alone: parameters and bytes of each part, and a copy without memory to rehearse on.

Nothing but `config.json` is read.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captioncrafter import recipe
from captioncrafter.model import lora
from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.stock import Blip2, Tuned

_FRONT = ("vision_model", "qformer", "language_projection")
_T5 = ("language_model.shared", "language_model.encoder", "language_model.decoder", "language_model.lm_head")
_QUERIES = "query_tokens"

# Bytes a weight. int8 (Dettmers et al. 2022) keeps one float32 a row more. NF4 with double quantisation (QLoRA,
# Dettmers et al. 2023, section 3) keeps 8 bits a block of 64 weights and 32 bits a block of 256 such blocks.
_QUANTISED_BYTES = {"int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
_ROW_BYTES = {"int8": 4, "nf4": 0}


@dataclass(frozen=True)
class Part:
    """A part of the base model: its parameters, and the bytes they take in the precision asked for."""

    name: str
    parameters: int
    bytes: int


def meta_model(config: Any, dtype: torch.dtype) -> Blip2:
    """The stock model of a `Blip2Config` without memory, frozen, in eval mode, its output head as checkpoints have it.

    transformers ties flan-T5's head to its embedding whatever the configuration says; the checkpoint has both.
    """
    from transformers import Blip2ForConditionalGeneration

    with torch.device("meta"):
        model: Blip2 = Blip2ForConditionalGeneration(config)
    model.to(dtype)
    if not is_decoder_only(config) and not getattr(config.text_config, "scale_decoder_outputs", True):
        head = model.language_model.lm_head
        head.weight = nn.Parameter(torch.empty_like(head.weight))
    return model.eval().requires_grad_(False)


def attached(model: Blip2, options: recipe.Lora) -> Tuned:
    """`model`, which has no memory, with an adapter that has none either; how it would start is left out."""
    # A start from the base's weights takes their decomposition, for which there must be weights.
    with torch.device("meta"):
        return lora.attach(model, options.model_copy(update={"init": "kaiming"}), seed=0)


def parts_of(model: Blip2, arithmetic: Arithmetic) -> list[Part]:
    """Every part of the base in model order, the learned queries counted with the Q-Former."""
    names = (*_FRONT, *(("language_model",) if is_decoder_only(model.config) else _T5))
    quantised = _quantised_weights(model, arithmetic)
    found: dict[str, tuple[int, int]] = dict.fromkeys(names, (0, 0))
    for name, parameter in model.named_parameters():
        if _is_adapters(name):
            continue
        stock = "qformer" if name == _QUERIES else name
        part = next(one for one in names if stock.startswith(one))
        size = _bytes(parameter, arithmetic, quantised=name in quantised)
        found[part] = (found[part][0] + parameter.numel(), found[part][1] + size)
    return [Part(name, *counts) for name, counts in found.items()]


def bytes_in(parts: Collection[Part], loaded: Collection[str]) -> int:
    """Bytes of those parts that are in memory when `loaded` (names as `cut.parts_after` gives them) are."""
    return sum(
        part.bytes for part in parts if any(part.name == one or part.name.startswith(f"{one}.") for one in loaded)
    )


def unpacked_bytes(model: Blip2, arithmetic: Arithmetic) -> int:
    """The largest quantised weight as it is computed with: made anew for each layer, forward and backward."""
    quantised = _quantised_weights(model, arithmetic)
    weights = (parameter for name, parameter in model.named_parameters() if name in quantised)
    return max((weight.numel() * arithmetic.dtype.itemsize for weight in weights), default=0)


def _bytes(parameter: Tensor, arithmetic: Arithmetic, *, quantised: bool) -> int:
    if not quantised or arithmetic.quantised is None:
        return parameter.numel() * arithmetic.dtype.itemsize
    kind = arithmetic.quantised
    return round(parameter.numel() * _QUANTISED_BYTES[kind]) + parameter.shape[0] * _ROW_BYTES[kind]


def _quantised_weights(model: Blip2, arithmetic: Arithmetic) -> set[str]:
    """Names of the weights that quantisation reaches: of the language model's linear layers, its head left out."""
    if arithmetic.quantised is None:
        return set()
    # transformers' quantisers leave out what a model class wants kept in float32 when it is in float16: T5's `wo`.
    left_out = {"lm_head", *(getattr(model, "_keep_in_fp32_modules", None) or ())}
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith("language_model.")
        and not _is_adapters(f"{name}.")
        and not left_out & set(name.split("."))
    }


def _is_adapters(name: str) -> bool:
    return ".lora_" in name or ".modules_to_save." in name
