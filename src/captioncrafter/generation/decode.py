"""Captions from features: beam search, greedy decoding or sampling by the stock language model's own `generate`."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from captioncrafter import recipe
from captioncrafter.model.captioning import Prompt, encoder_inputs
from captioncrafter.model.stock import Blip2, Processor


@torch.no_grad()
def decode(
    model: Blip2,
    processor: Processor,
    features: Float[Tensor, "image query width"],
    prompt: Prompt,
    decoding: recipe.Decoding,
) -> list[str]:
    """One caption for each image. Greedy and beam search give what `model.generate` gives from the pixels.

    Sampling draws from `decoding.seed` and leaves the global random state as it was.
    """
    device = model.device
    inputs = encoder_inputs(model, features.to(device), prompt.to(device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], enabled=decoding.sample):
        if decoding.sample:
            torch.manual_seed(decoding.seed)
        tokens = model.language_model.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=device),
            **generate_options(decoding),
        )
    texts: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]


def generate_options(decoding: recipe.Decoding) -> dict[str, Any]:
    """The options for transformers' `generate`; those that only one way of decoding reads are left out of the other."""
    options: dict[str, Any] = {
        "max_new_tokens": decoding.max_new_tokens,
        "num_beams": decoding.num_beams,
        "do_sample": decoding.sample,
        "repetition_penalty": decoding.repetition_penalty,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
    }
    if decoding.num_beams > 1:
        options["length_penalty"] = decoding.length_penalty
    if decoding.sample:
        options |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    return options
