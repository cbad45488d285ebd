"""What the language model reads before it writes: one position per Q-Former query, then the words of the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from captioncrafter.model.checkpoint import image_token_id
from captioncrafter.model.stock import Processor


@dataclass(frozen=True)
class Prompt:
    """What the encoder reads: `input_ids` as Blip2Processor writes them, `<image>` positions first, then the text."""

    text: str
    input_ids: Int[Tensor, " position"]
    image_positions: int

    @property
    def words(self) -> Int[Tensor, " word"]:
        """The ids of the text, with whatever the tokenizer puts around it."""
        return self.input_ids[self.image_positions :]

    def __len__(self) -> int:
        return len(self.input_ids)


def encode_prompt(processor: Processor, text: str) -> Prompt:
    """The prompt's ids: `num_query_tokens` times `<image>`, then `text` and what the tokenizer adds to it.

    Equal to the processor's own: `</s>` behind the text for T5, in front of it for OPT.
    """
    queries = int(processor.num_query_tokens)
    words = processor.tokenizer(text).input_ids
    ids = [image_token_id(processor)] * queries + list(words)
    return Prompt(text, torch.tensor(ids), queries)


@dataclass(frozen=True)
class Prompts:
    """The words of several rows' prompts; a shorter one is padded behind, and `mask` is false there.

    `padded` says whether one is, or may be: looking at the mask would wait for the device.
    """

    words: Int[Tensor, "row word"]
    mask: Bool[Tensor, "row word"]
    image_positions: int
    padded: bool = True

    @property
    def positions(self) -> Bool[Tensor, "row position"]:
        """Which positions hold something, the image's among them."""
        image = self.mask.new_ones(len(self.mask), self.image_positions)
        return torch.cat([image, self.mask], dim=1)

    def to(self, device: torch.device) -> "Prompts":
        """The same prompts on `device`."""
        move = {"device": device, "non_blocking": True}
        return Prompts(self.words.to(**move), self.mask.to(**move), self.image_positions, self.padded)

    def pinned(self) -> "Prompts":
        """The same prompts in page-locked memory, from which copies to a GPU do not wait."""
        return Prompts(self.words.pin_memory(), self.mask.pin_memory(), self.image_positions, self.padded)


def stacked(prompts: Sequence[Prompt], *, pad_id: int) -> Prompts:
    """One row for each of `prompts`, padded with `pad_id` to the longest."""
    length = max(len(prompt.words) for prompt in prompts)
    words = torch.full((len(prompts), length), pad_id)
    mask = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        words[row, : len(prompt.words)] = prompt.words
        mask[row, : len(prompt.words)] = True
    padded = any(len(prompt.words) < length for prompt in prompts)
    return Prompts(words, mask, prompts[0].image_positions, padded)
