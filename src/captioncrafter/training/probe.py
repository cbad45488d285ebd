"""A few training images as the stock model sees them, against which preflight holds the training step.

The frozen prefix and the rest of the model need never be in memory together: what the stock forward makes of the pixels
is taken here, up to where the other half takes over, and the rest of that same forward goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioncrafter.model.captioning import PackedCaptions
from captioncrafter.model.cut import Cut, is_decoder_only
from captioncrafter.model.prefix import features_at
from captioncrafter.model.prompts import Prompt, Prompts, stacked
from captioncrafter.model.stock import Blip2
from captioncrafter.training.packing import TokenIds, pack

_IGNORE = -100


@dataclass(frozen=True)
class Probe:
    """Some training images: stored `features`, prompts and captions, and what the stock forward makes of their pixels.

    `seen` holds a tensor for each image: projected query outputs, or with the cut behind T5's encoder its states.
    `difference` is how far each image's stored features are from fresh ones, as a share of their norm.
    """

    cut: Cut
    features: Float[Tensor, "image ..."]
    prompts: list[Prompt]
    captions: list[list[TokenIds]]
    seen: list[Float[Tensor, "1 _ width"]]
    difference: Float[Tensor, " image"]

    @property
    def tokens(self) -> int:
        """Caption tokens of all images."""
        return sum(len(ids) for captions in self.captions for ids in captions)

    def stacked_prompts(self, model: Blip2) -> Prompts:
        """All prompts as one batch."""
        return stacked(self.prompts, pad_id=model.config.text_config.pad_token_id)

    def packed(self, model: Blip2) -> PackedCaptions:
        """All captions as the training step packs them."""
        return pack(self.captions, model.config, self.stacked_prompts(model))


def observe(
    model: Blip2,
    cut: Cut,
    pixels: Float[Tensor, "image channel row column"],
    features: Float[Tensor, "image ..."] | None,
    prompts: list[Prompt],
    captions: list[list[TokenIds]],
    device: torch.device,
) -> Probe:
    """The probe of these images, by a `model` of which the part before `cut` and the projection are in memory.

    `features` are the stored ones; None where nothing is stored, and then they are the pixels themselves.
    """
    pixels = pixels.to(device)
    pad_id = model.config.text_config.pad_token_id
    fresh = features_at(model, pixels, cut, stacked(prompts, pad_id=pad_id).to(device)).float().cpu()
    stored = fresh if features is None else features.float().cpu()
    if stored.shape != fresh.shape:
        difference = torch.full((len(fresh),), torch.inf)
    else:
        # What is stored behind T5's encoder is padded with zeros, where the encoder gives what it makes of padding.
        kept = stacked(prompts, pad_id=pad_id).positions[:, :, None] if cut is Cut.ENCODER else torch.ones(())
        gaps, sizes = ((stored - fresh) * kept).flatten(1).norm(dim=1), (fresh * kept).flatten(1).norm(dim=1)
        difference = gaps / sizes
    see = _encoder_states if cut is Cut.ENCODER else _projected
    seen = [see(model, image[None], prompt, device).cpu() for image, prompt in zip(pixels, prompts, strict=True)]
    return Probe(cut, stored if features is None else features, prompts, captions, seen, difference)


@torch.no_grad()
def _projected(model: Blip2, pixels: Tensor, prompt: Prompt, device: torch.device) -> Tensor:
    del prompt, device
    return model.get_image_features(pixels.to(model.vision_model.dtype)).pooler_output


class _Seen(Exception):
    """Carries the encoder's states out of the stock forward, whose decoder is not in memory."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


@torch.no_grad()
def _encoder_states(model: Blip2, pixels: Tensor, prompt: Prompt, device: torch.device) -> Tensor:
    def take(encoder: object, inputs: object, outputs: Any) -> NoReturn:
        del encoder, inputs
        raise _Seen(outputs[0])

    ids = prompt.input_ids[None].to(device)
    hook = model.language_model.get_encoder().register_forward_hook(take)
    try:
        model(pixel_values=pixels.to(model.vision_model.dtype), input_ids=ids, labels=ids)
    except _Seen as seen:
        return seen.states
    finally:
        hook.remove()
    raise AssertionError("the stock forward did not run T5's encoder")


@torch.no_grad()
def stock_loss(model: Blip2, probe: Probe, device: torch.device) -> float:
    """Nats per caption token by the stock forward, a caption a row; what is behind the cut must be in memory."""
    total = 0.0
    for seen, prompt, captions in zip(probe.seen, probe.prompts, probe.captions, strict=True):
        inputs, labels = _stock_rows(model, prompt, captions)
        rows = seen.expand(len(captions), -1, -1).to(device)
        if probe.cut is Cut.ENCODER:
            found = _from_encoder_states(model, rows, labels.to(device))
        else:
            found = _from_projected(model, rows, inputs.to(device), labels.to(device))
        total += float(found) * sum(map(len, captions))
    return total / probe.tokens


def _stock_rows(
    model: Blip2, prompt: Prompt, captions: Sequence[TokenIds]
) -> tuple[Int[Tensor, "caption position"], Int[Tensor, "caption token"]]:
    """`input_ids` and `labels` as the stock forward wants them; a decoder-only model has the captions in both."""
    longest = max(map(len, captions))
    labels = torch.full((len(captions), longest), _IGNORE)
    for row, ids in enumerate(captions):
        labels[row, : len(ids)] = torch.tensor(ids)
    inputs = prompt.input_ids.expand(len(captions), -1)
    if not is_decoder_only(model.config):
        return inputs, labels
    # Padding stands behind everything and is no target, so no target's position or context knows of it.
    written = labels.masked_fill(labels == _IGNORE, model.config.text_config.pad_token_id)
    ignored = torch.full(inputs.shape, _IGNORE)
    return torch.cat([inputs, written], dim=1), torch.cat([ignored, labels], dim=1)


def _from_projected(model: Blip2, projected: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    from transformers.models.blip_2.modeling_blip_2 import BaseModelOutputWithVisionQformerOutputs

    image = BaseModelOutputWithVisionQformerOutputs(pooler_output=projected)  # pyright: ignore[reportArgumentType]
    return model(
        pixel_values=None,
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        labels=labels,
        mm_encoder_outputs={"image": image},
    ).loss


def _from_encoder_states(model: Blip2, states: Tensor, labels: Tensor) -> Tensor:
    from transformers.modeling_outputs import BaseModelOutput

    outputs = BaseModelOutput(last_hidden_state=states)  # pyright: ignore[reportArgumentType]
    mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    return model.language_model(encoder_outputs=outputs, attention_mask=mask, labels=labels).loss
