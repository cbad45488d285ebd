"""From an image to what the decoder attends to, starting anywhere along the way.

Every step calls the stock model's own module. The whole way equals `Blip2ForConditionalGeneration.forward`, to which
the tests and the preflight hold it; a cut somewhere on it changes where the way starts and nothing else.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from captioncrafter.model.cut import Cut, is_decoder_only
from captioncrafter.model.prompts import Prompts
from captioncrafter.model.stock import Blip2

Features = Float[Tensor, "row ..."]


@dataclass(frozen=True)
class Context:
    """What the decoder attends to: T5's encoder states, or the embedded image and prompt that OPT goes on from.

    `mask` is false where a shorter prompt was padded; `padded` says whether one was, or may have been.
    """

    states: Float[Tensor, "row position width"]
    mask: Bool[Tensor, "row position"]
    padded: bool = True

    @property
    def needed_mask(self) -> Bool[Tensor, "row position"] | None:
        """The mask where it hides something: transformers looks whether a mask does, and that waits for the device."""
        return self.mask if self.padded else None


@torch.no_grad()
def features_at(model: Blip2, pixels: Float[Tensor, "row channel y x"], cut: Cut, prompts: Prompts) -> Features:
    """What the frozen prefix makes of the images at `cut`; `prompts` matter behind T5's encoder only."""
    features = pixels
    for at, step in _WAY:
        if at is cut:
            return features
        features = step(model, features)
    if cut is Cut.PROJECTION:
        return features
    return context_of(model, features, Cut.PROJECTION, prompts).states


def context_of(model: Blip2, features: Features, cut: Cut, prompts: Prompts) -> Context:
    """What the decoder attends to, from what is known at `cut`."""
    mask, padded = prompts.positions, prompts.padded
    if cut is Cut.ENCODER:
        return Context(features.to(model.get_output_embeddings().weight.dtype), mask, padded)
    passed = False
    for at, step in _WAY:
        passed = passed or at is cut
        features = step(model, features) if passed else features
    embedded = _embedded(model, features, prompts)
    if is_decoder_only(model.config):
        return Context(embedded, mask, padded)
    encoder, needed = model.language_model.get_encoder(), mask if padded else None
    return Context(encoder(inputs_embeds=embedded, attention_mask=needed).last_hidden_state, mask, padded)


def _patches(model: Blip2, pixels: Features) -> Features:
    return model.vision_model(pixel_values=pixels.to(model.vision_model.dtype)).last_hidden_state


def _query_outputs(model: Blip2, patches: Features) -> Features:
    queries = model.query_tokens.expand(len(patches), -1, -1)
    # No mask: the stock forward's hides nothing, and transformers would wait for the device to see that.
    return model.qformer(query_embeds=queries, encoder_hidden_states=patches.to(queries.dtype)).last_hidden_state


def _projected(model: Blip2, queries: Features) -> Features:
    projection = model.language_projection
    return projection(queries.to(projection.weight.dtype))


_WAY = ((Cut.IMAGES, _patches), (Cut.VISION, _query_outputs), (Cut.QFORMER, _projected))


def _embedded(model: Blip2, projected: Features, prompts: Prompts) -> Float[Tensor, "row position width"]:
    """The language model's input embeddings: the image in the `<image>` positions, then the prompt's words."""
    words = model.get_input_embeddings()(prompts.words)
    return torch.cat([projected.to(words.dtype), words], dim=1)
