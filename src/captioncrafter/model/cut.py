"""Where the frozen prefix of the model ends: the deepest point that nothing trained comes before.

What is computed up to there depends on the image (and for the T5 encoder on the prompt) alone, so it is computed once
and read from disk afterwards. Knows configurations and names, no weights.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any


class Cut(StrEnum):
    """The points along the way from an image to the decoder, in that order."""

    IMAGES = "images"
    """Nothing is frozen, or every epoch sees other pixels: the whole model runs in each step."""

    VISION = "vision"
    """After the vision transformer: [patch, vision width]."""

    QFORMER = "qformer"
    """After the Q-Former: [query, Q-Former width]."""

    PROJECTION = "projection"
    """After the projection into the language model's width: [query, model width]."""

    ENCODER = "encoder"
    """After T5's encoder, which has read image and prompt: [position, model width]."""


_VISION, _QFORMER, _PROJECTION = ("vision_model",), ("qformer", "query_tokens"), ("language_projection",)
_ENCODER, _EMBEDDING = ("language_model.encoder",), ("language_model.shared",)
_DECODER = ("language_model.decoder", "language_model.lm_head")
_ORDER = tuple(Cut)


def is_decoder_only(config: Any) -> bool:
    """Whether the language model of a `Blip2Config` has no encoder (OPT), so that it reads image and prompt itself."""
    return bool(config.use_decoder_only_language_model)


def deepest_cut(config: Any, trained: Iterable[str], *, augmented: bool = False) -> Cut:
    """The deepest cut before which none of the `trained` layers (full names) lies; IMAGES where images vary.

    Of the two sides of a frozen projection, the narrower is taken: it is the smaller file.
    """
    trained = tuple(trained)

    def trains(*parts: str) -> bool:
        return any(name == part or name.startswith(f"{part}.") for name in trained for part in parts)

    if augmented or trains(*_VISION):
        return Cut.IMAGES
    if trains(*_QFORMER):
        return Cut.VISION
    if trains(*_PROJECTION):
        return Cut.QFORMER
    if not is_decoder_only(config) and not trains(*_ENCODER, *_EMBEDDING):
        return Cut.ENCODER
    narrower = config.text_config.hidden_size < config.qformer_config.hidden_size
    return Cut.PROJECTION if narrower else Cut.QFORMER


def parts_before(cut: Cut) -> tuple[str, ...]:
    """Names of the parts whose weights decide what lies at the cut."""
    at = _ORDER.index(cut)
    parts = (_VISION, _QFORMER, _PROJECTION, _EMBEDDING + _ENCODER)[:at]
    return tuple(name for part in parts for name in part)


def parts_after(config: Any, cut: Cut) -> tuple[str, ...]:
    """Names of the parts that run in every training step."""
    at = _ORDER.index(cut)
    front = tuple(name for part in (_VISION, _QFORMER, _PROJECTION)[at:] for name in part)
    if is_decoder_only(config):
        return (*front, "language_model")
    return (*front, *_EMBEDDING, *(() if cut is Cut.ENCODER else _ENCODER), *_DECODER)
