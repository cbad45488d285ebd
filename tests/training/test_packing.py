"""The captions of an image stand in one row, each beginning with the start token and seeing itself alone."""

import torch

from captioncrafter.model.captioning import IGNORE
from captioncrafter.training.packing import encode_captions, pack
from tiny import tiny_processor

END = 1


def test_rows_are_worked_out_by_hand():
    packed = pack([[[5, 6, END], [7, END]], [[8, END]]], start_id=0, pad_id=0)

    assert packed.decoder_input_ids.tolist() == [[0, 5, 6, 0, 7], [0, 8, 0, 0, 0]]
    assert packed.labels.tolist() == [[5, 6, END, 7, END], [8, END, IGNORE, IGNORE, IGNORE]]
    assert packed.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_every_position_sees_something_so_that_no_softmax_is_empty():
    packed = pack([[[5, 6, END]], [[7, END]]], start_id=0, pad_id=0)

    assert packed.mask.any(dim=-1).all()


def test_padding_sees_padding_only():
    packed = pack([[[5, 6, END]], [[7, END]]], start_id=0, pad_id=0)

    assert packed.mask[1, 0, 2].tolist() == [False, False, True]


def test_the_decoder_start_is_the_models_and_not_the_padding():
    packed = pack([[[5, END], [6, END]]], start_id=9, pad_id=4)

    assert packed.decoder_input_ids.tolist() == [[9, 5, 9, 6]]


def test_a_caption_is_its_words_and_the_end_token():
    tokenizer = tiny_processor().tokenizer

    (ids,), cut = encode_captions(tokenizer, ["a red dog"], max_tokens=32)

    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "red", "dog", "</s>"]
    assert cut == 0


def test_a_long_caption_is_cut_counted_and_still_ends():
    tokenizer = tiny_processor().tokenizer

    encoded, cut = encode_captions(tokenizer, ["a red dog in the park", "a dog"], max_tokens=4)

    assert tokenizer.convert_ids_to_tokens(encoded[0]) == ["a", "red", "dog", "</s>"]
    assert cut == 1


def test_a_caption_of_just_the_longest_length_is_not_cut():
    tokenizer = tiny_processor().tokenizer

    (ids,), cut = encode_captions(tokenizer, ["a red dog"], max_tokens=4)

    assert (len(ids), cut) == (4, 0)


def test_labels_are_every_caption_token_once():
    rows = [[[5, 6, END], [7, END]], [[8, END], [9, 10, 11, END], [END]]]

    labels = pack(rows, start_id=0, pad_id=0).labels

    assert labels[labels != IGNORE].tolist() == [token for row in rows for caption in row for token in caption]
    assert labels.dtype == torch.long
