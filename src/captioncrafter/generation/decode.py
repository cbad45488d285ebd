"""Captions from what the decoder attends to, by the stock language model's own `generate`: beams, greedy, sampling."""

import hashlib
from typing import Any

import torch

from captioncrafter import recipe
from captioncrafter.errors import InputError
from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.prefix import Context
from captioncrafter.model.stock import Blip2, Processor


@torch.no_grad()
def decode(
    model: Blip2, processor: Processor, context: Context, decoding: recipe.Decoding, *, first: int = 0
) -> list[str]:
    """One caption for each row of `context`. Greedy and beam search give what `model.generate` gives from the pixels.

    Sampling draws from `decoding.seed` and `first`, the place of the batch's first image among all, so that no two
    batches share their draws; it leaves the global random state as it was.
    """
    device = context.states.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], enabled=decoding.sample):
        if decoding.sample:
            torch.manual_seed(_batch_seed(decoding.seed, first))
        tokens = model.language_model.generate(**_given(model, context), **generate_options(decoding))
    texts: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]


def _given(model: Blip2, context: Context) -> dict[str, Any]:
    """The context as `generate` takes it: T5's encoder is done; OPT goes on where its prompt ends, so padding leads."""
    from transformers.modeling_outputs import BaseModelOutput

    if not is_decoder_only(model.config):
        outputs = BaseModelOutput(last_hidden_state=context.states)  # pyright: ignore[reportArgumentType]
        return {"encoder_outputs": outputs, "attention_mask": context.mask.long()}
    length = context.mask.shape[1]
    padding = length - context.mask.sum(dim=1, keepdim=True)
    order = (torch.arange(length, device=padding.device) - padding) % length
    states = context.states.gather(1, order[:, :, None].expand_as(context.states))
    return {"inputs_embeds": states, "attention_mask": context.mask.gather(1, order).long()}


def _batch_seed(seed: int, first: int) -> int:
    # Hashed, not added: seed 0 at image 16 must not draw what seed 16 draws at image 0. The CPU's generator reads the
    # lower 32 bits only (ATen/core/MT19937RNGEngine.h), so the two numbers cannot lie side by side either.
    return int.from_bytes(hashlib.sha256(f"{seed} {first}".encode()).digest()[:8], "big")


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


_ONLY_SAMPLING = ("temperature", "top_p", "seed")


def overridden(decoding: recipe.Decoding, changes: dict[str, Any]) -> recipe.Decoding:
    """`decoding` with some settings replaced; `sample` on without `num_beams` means one beam: sampling, no search.

    Raises `InputError` for a wrong setting, and for one given that the resulting way of decoding does not read. What
    `decoding` itself holds is never refused, nor is a whole decoding given at once.
    """
    if changes.get("sample") and "num_beams" not in changes:
        changes = changes | {"num_beams": 1}
    found = recipe.check_decoding(decoding.model_dump() | changes)
    if changes.keys() == recipe.Decoding.model_fields.keys():
        return found
    if not found.sample:
        unread = [name for name in _ONLY_SAMPLING if name in changes]
        if unread:
            raise InputError(
                f"decoding: {', '.join(unread)} needs --sample (sample=True): without sampling nothing reads it. "
                "Add that, or leave it out."
            )
    if found.num_beams == 1 and "length_penalty" in changes:
        raise InputError(
            "decoding: length_penalty needs a beam search, --num-beams 2 or more (num_beams=2): with one beam nothing "
            "reads it. Add that, or leave length_penalty out."
        )
    return found
