"""Captions to token rows: all captions of an image in one decoder row, none seeing another.

Packing needs no modelling code: transformers uses a four-dimensional mask as it is. T5's relative bias depends on
distance within a caption only; OPT's learned positions are handed over.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captioncrafter.model.captioning import PackedCaptions
from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.prompts import Prompts

TokenIds = list[int]


def encode_captions(
    tokenizer: Any, captions: Sequence[str], config: Any, *, prompt: str, max_tokens: int
) -> tuple[list[TokenIds], int]:
    """Each caption's ids, its end last, and how many captions had to be cut to `max_tokens` (with the end kept).

    A decoder-only model goes on from the prompt: its captions start with a space where there is one, and end with the
    token at which its own generation stops.
    """
    if is_decoder_only(config):
        texts = [f" {caption}" if prompt else caption for caption in captions]
        end = config.text_config.eos_token_id
        encoded = [[*ids, end] for ids in tokenizer(texts, add_special_tokens=False).input_ids]
    else:
        encoded = tokenizer(list(captions)).input_ids
    long = sum(len(ids) > max_tokens for ids in encoded)
    return [ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]] for ids in encoded], long


def pack(rows: Sequence[Sequence[TokenIds]], config: Any, prompts: Prompts) -> PackedCaptions:
    """One decoder row for each image's captions, padded to the longest row; row i follows row i of `prompts`."""
    if is_decoder_only(config):
        return _pack_behind_prompts(rows, prompts, pad_id=config.text_config.pad_token_id)
    text = config.text_config
    return _pack_alone(rows, start_id=text.decoder_start_token_id, pad_id=text.pad_token_id)


def _pack_alone(rows: Sequence[Sequence[TokenIds]], *, start_id: int, pad_id: int) -> PackedCaptions:
    """Rows for a decoder that reads captions only: each begins with `start_id` and predicts one token a position."""
    length = max(sum(map(len, captions)) for captions in rows)
    token_ids = torch.full((len(rows), length), pad_id)
    caption_index = torch.full((len(rows), length), -1)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    read_at: list[int] = []
    targets: list[int] = []
    for row, captions in enumerate(rows):
        at = 0
        for index, ids in enumerate(captions):
            end = at + len(ids)
            token_ids[row, at:end] = torch.tensor([start_id, *ids[:-1]])
            caption_index[row, at:end] = index
            positions[row, at:end] = torch.arange(len(ids))
            read_at += range(row * length + at, row * length + end)
            targets += ids
            at = end
    mask = _block_causal(caption_index)[:, None]
    return PackedCaptions(token_ids, mask, positions, torch.tensor(read_at), torch.tensor(targets))


def _pack_behind_prompts(rows: Sequence[Sequence[TokenIds]], prompts: Prompts, *, pad_id: int) -> PackedCaptions:
    """Rows for a decoder-only model: image and prompt once, then the captions, each going on from the prompt.

    The last position of the prompt predicts the first token of every caption; the end of a caption is never read.
    """
    known = prompts.positions
    before = known.shape[1]
    length = max(sum(len(ids) - 1 for ids in captions) for captions in rows)
    token_ids = torch.full((len(rows), length), pad_id)
    caption_index = torch.full((len(rows), length), -1)
    positions = torch.zeros(len(rows), before + length, dtype=torch.long)
    read_at: list[int] = []
    targets: list[int] = []
    for row, captions in enumerate(rows):
        prefix = int(known[row].sum())
        positions[row, :prefix] = torch.arange(prefix)
        first, at = row * (before + length), 0
        for index, ids in enumerate(captions):
            end = at + len(ids) - 1
            token_ids[row, at:end] = torch.tensor(ids[:-1])
            caption_index[row, at:end] = index
            positions[row, before + at : before + end] = torch.arange(prefix, prefix + len(ids) - 1)
            read_at += [first + prefix - 1, *range(first + before + at, first + before + end)]
            targets += ids
            at = end
    mask = _behind_prompts(known, caption_index)
    return PackedCaptions(token_ids, mask, positions, torch.tensor(read_at), torch.tensor(targets))


def _block_causal(caption_index: Tensor) -> Tensor:
    """Padding sees padding only: a position that sees nothing would give NaN."""
    same_caption = caption_index[:, :, None] == caption_index[:, None, :]
    return same_caption & same_caption.new_ones(same_caption.shape[-2:]).tril()


def _behind_prompts(known: Tensor, caption_index: Tensor) -> Tensor:
    rows, before = known.shape
    length = caption_index.shape[1]
    mask = torch.zeros(rows, before + length, before + length, dtype=torch.bool)
    mask[:, :before, :before] = known[:, None, :] & torch.ones(before, before, dtype=torch.bool).tril()
    mask[:, before:, :before] = known[:, None, :]
    mask[:, before:, before:] = _block_causal(caption_index)
    return (mask | torch.eye(before + length, dtype=torch.bool))[:, None]
