"""Captions to token rows: all captions of an image in one decoder row, none seeing another.

Packing needs no modelling code: transformers uses a four-dimensional decoder mask as it is, and T5's relative bias
depends on distance within a caption only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioncrafter.model.captioning import IGNORE, PackedCaptions

TokenIds = list[int]


def encode_captions(tokenizer: object, captions: Sequence[str], *, max_tokens: int) -> tuple[list[TokenIds], int]:
    """Each caption's ids, `</s>` last, and how many captions had to be cut to `max_tokens` (with `</s>` kept)."""
    encoded: list[TokenIds] = tokenizer(list(captions)).input_ids  # pyright: ignore[reportCallIssue]
    long = sum(len(ids) > max_tokens for ids in encoded)
    return [ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]] for ids in encoded], long


def pack(rows: Sequence[Sequence[TokenIds]], *, start_id: int, pad_id: int) -> PackedCaptions:
    """One decoder row for each image's captions, padded to the longest row.

    `start_id` begins every caption. Padding sees padding only and carries no label.
    """
    length = max(sum(map(len, captions)) for captions in rows)
    inputs = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORE)
    caption_index = torch.full((len(rows), length), -1)
    for row, captions in enumerate(rows):
        at = 0
        for index, ids in enumerate(captions):
            end = at + len(ids)
            labels[row, at:end] = torch.tensor(ids)
            inputs[row, at:end] = torch.tensor([start_id, *ids[:-1]])
            caption_index[row, at:end] = index
            at = end
    return PackedCaptions(inputs, _block_causal(caption_index), labels)


def _block_causal(caption_index: Tensor) -> Tensor:
    same_caption = caption_index[:, :, None] == caption_index[:, None, :]
    return (same_caption & same_caption.new_ones(same_caption.shape[-2:]).tril())[:, None]
