"""How BLIP-2 reads an image and a prompt, and what its captions cost.

The language model's encoder sees one position per Q-Former query, holding the projected query outputs, then the
prompt and `</s>`. Captions are the decoder's alone. Everything here calls the stock model's own modules; where it
takes another road than `Blip2ForConditionalGeneration.forward` (features from disk, several captions in a row), the
tests and the preflight hold it to that forward's numbers.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from captioncrafter.model.checkpoint import image_token_id
from captioncrafter.model.stock import Blip2, Processor

IGNORE = -100


@dataclass(frozen=True)
class Prompt:
    """What the encoder reads: `input_ids` as Blip2Processor writes them, `<image>` positions first, then the text."""

    text: str
    input_ids: Int[Tensor, " position"]
    image_positions: int

    def to(self, device: torch.device) -> "Prompt":
        """The same prompt on `device`."""
        return Prompt(self.text, self.input_ids.to(device), self.image_positions)


def encode_prompt(processor: Processor, text: str) -> Prompt:
    """The prompt's ids: `num_query_tokens` times `<image>`, then `text` and `</s>`; equal to the processor's own."""
    queries = int(processor.num_query_tokens)
    words = processor.tokenizer(text).input_ids
    ids = [image_token_id(processor)] * queries + list(words)
    return Prompt(text, torch.tensor(ids), queries)


@torch.no_grad()
def query_outputs(
    model: Blip2, pixels: Float[Tensor, "image channel row column"]
) -> Float[Tensor, "image query width"]:
    """What the frozen half makes of the images: the Q-Former's outputs, before the projection."""
    features = model.get_image_features(pixels.to(model.vision_model.dtype))
    return features.qformer_outputs.last_hidden_state


def encoder_inputs(
    model: Blip2, features: Float[Tensor, "image query width"], prompt: Prompt
) -> Float[Tensor, "image position model_width"]:
    """The language model's input embeddings: projected `features` in the `<image>` positions, then the prompt's."""
    projection = model.language_projection
    projected = projection(features.to(projection.weight.dtype))
    words = model.get_input_embeddings()(prompt.input_ids[prompt.image_positions :])
    return torch.cat([projected.to(words.dtype), words.expand(len(features), -1, -1)], dim=1)


@dataclass(frozen=True)
class PackedCaptions:
    """The captions of several images, one decoder row an image.

    Each caption starts with the decoder's start token and sees its own tokens only: `mask` is block-diagonal and
    causal. `labels` hold `IGNORE` on padding. T5's relative positions depend on distance, so a caption costs the
    same wherever in the row it stands.
    """

    decoder_input_ids: Int[Tensor, "image token"]
    mask: Bool[Tensor, "image 1 token token"]
    labels: Int[Tensor, "image token"]

    def to(self, device: torch.device) -> "PackedCaptions":
        """The same captions on `device`."""
        move = {"device": device, "non_blocking": True}
        return PackedCaptions(self.decoder_input_ids.to(**move), self.mask.to(**move), self.labels.to(**move))


def caption_logits(
    model: Blip2,
    features: Float[Tensor, "image query width"],
    prompt: Prompt,
    captions: PackedCaptions,
) -> Float[Tensor, "image token vocab"]:
    """The language model's logits at every position of the packed captions; the encoder runs once an image."""
    outputs = model.language_model(
        inputs_embeds=encoder_inputs(model, features, prompt),
        decoder_input_ids=captions.decoder_input_ids,
        decoder_attention_mask=captions.mask,
        use_cache=False,
    )
    return outputs.logits


def summed_loss(
    logits: Float[Tensor, "image token vocab"],
    labels: Int[Tensor, "image token"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Summed negative log-likelihood of the caption tokens, in nats; `IGNORE` positions carry no weight.

    A sum, so that batches of unequal length add up to the mean over all their tokens once divided by their count.
    """
    return functional.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
