"""What captions cost a BLIP-2 that attends to an image and a prompt.

Here several captions stand in one row, each blind to the others. Everything calls the stock model's own modules; the
tests and the preflight hold it to the numbers of `Blip2ForConditionalGeneration.forward`, a caption a row.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from captioncrafter.model.cross_entropy import summed_cross_entropy
from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.prefix import Context
from captioncrafter.model.stock import Blip2


@dataclass(frozen=True)
class PackedCaptions:
    """The captions of several images, one decoder row an image.

    `mask` lets a token see the earlier ones of its own caption (and, in a decoder-only model, whose rows begin with
    image and prompt, those too). `positions` count within a caption as if it stood alone. Target t is predicted from
    the hidden state at `read_at[t]`, an index into all rows laid end to end.
    """

    token_ids: Int[Tensor, "row token"]
    mask: Bool[Tensor, "row 1 sequence sequence"]
    positions: Int[Tensor, "row sequence"]
    read_at: Int[Tensor, " target"]
    targets: Int[Tensor, " target"]

    def to(self, device: torch.device) -> "PackedCaptions":
        """The same captions on `device`."""
        tensors = (self.token_ids, self.mask, self.positions, self.read_at, self.targets)
        return PackedCaptions(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def pinned(self) -> "PackedCaptions":
        """The same captions in page-locked memory, from which copies to a GPU do not wait."""
        tensors = (self.token_ids, self.mask, self.positions, self.read_at, self.targets)
        return PackedCaptions(*(tensor.pin_memory() for tensor in tensors))


def target_states(model: Blip2, context: Context, captions: PackedCaptions) -> Float[Tensor, "target width"]:
    """The last hidden state at every position from which a caption token is predicted, ready for the output head."""
    language_model = model.language_model
    decoder = language_model.get_decoder()
    if is_decoder_only(model.config):
        words = model.get_input_embeddings()(captions.token_ids)
        hidden = decoder(
            inputs_embeds=torch.cat([context.states, words], dim=1),
            attention_mask=captions.mask,
            position_ids=captions.positions,
            use_cache=False,
        ).last_hidden_state
        return hidden.flatten(0, 1)[captions.read_at]
    hidden = decoder(
        input_ids=captions.token_ids,
        attention_mask=captions.mask,
        encoder_hidden_states=context.states,
        encoder_attention_mask=context.needed_mask,
        use_cache=False,
    ).last_hidden_state
    if language_model.config.scale_decoder_outputs:
        hidden = hidden * language_model.model_dim**-0.5
    return hidden.flatten(0, 1)[captions.read_at]


def caption_loss(
    model: Blip2, context: Context, captions: PackedCaptions, *, label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Summed negative log-likelihood of the caption tokens, in nats.

    A sum, so that batches of unequal length add up to the mean over all their tokens once divided by their count.
    """
    hidden = target_states(model, context, captions)
    head = model.get_output_embeddings()
    return summed_cross_entropy(hidden, head, captions.targets, label_smoothing=label_smoothing)
