"""Floating-point operations of each part of a BLIP-2 flan-T5, counted on its configuration alone, forward only."""

from collections.abc import Callable
from typing import Any

import torch

from _subject import CAPTIONS_PER_IMAGE
from captioncrafter.model.captioning import caption_loss, target_states
from captioncrafter.model.cut import Cut
from captioncrafter.model.memory import meta_model
from captioncrafter.model.prefix import Context, context_of, features_at
from captioncrafter.model.prompts import Prompts
from captioncrafter.model.rehearsal import rehearsing
from captioncrafter.stages.phases import feature_shape
from captioncrafter.training.packing import pack

_META = torch.device("meta")


@torch.no_grad()
def flop_by_part(config: Any, *, prompt_tokens: int, caption_tokens: int) -> dict[str, int]:
    """For one image with five captions of so many tokens each, packed in one row; matrix products and attention."""
    model = meta_model(config, torch.bfloat16)
    words = torch.ones(1, prompt_tokens, dtype=torch.long)
    prompts = Prompts(words, torch.ones_like(words, dtype=torch.bool), config.num_query_tokens)
    captions = pack([[[1] * caption_tokens] * CAPTIONS_PER_IMAGE], config, prompts).to(_META)
    prompts = prompts.to(_META)

    def counted(run: Callable[[], object]) -> int:
        with rehearsing("cuda", model.parameters()) as found:
            run()
        return found.flop

    def up_to(cut: Cut) -> int:
        pixels = torch.empty(1, *feature_shape(config, Cut.IMAGES, prompt_tokens), device=_META)
        return counted(lambda: features_at(model, pixels, cut, prompts))

    projected = torch.empty(1, *feature_shape(config, Cut.PROJECTION, prompt_tokens), device=_META)
    states = torch.empty(1, *feature_shape(config, Cut.ENCODER, prompt_tokens), dtype=torch.bfloat16, device=_META)
    context = Context(states, prompts.positions)
    vision, qformer, projection = up_to(Cut.VISION), up_to(Cut.QFORMER), up_to(Cut.PROJECTION)
    decoder = counted(lambda: target_states(model, context, captions))
    return {
        "vision_model": vision,
        "qformer": qformer - vision,
        "language_projection": projection - qformer,
        "language_model.encoder": counted(lambda: context_of(model, projected, Cut.PROJECTION, prompts)),
        "language_model.decoder": decoder,
        "language_model.lm_head": counted(lambda: caption_loss(model, context, captions)) - decoder,
    }
