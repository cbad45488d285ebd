"""The captions of an image stand in one row; each starts where it would start alone, and sees itself alone."""

import pytest
import torch

from captioncrafter.model.prompts import Prompts
from captioncrafter.training.packing import encode_captions, pack
from families import owners_of
from tiny import tiny_opt_processor, tiny_processor

END = 1


def config_of(kind: str, *, start_id: int = 0, pad_id: int = 0):
    from transformers import Blip2Config

    ids = {"pad_token_id": pad_id, "eos_token_id": END, "decoder_start_token_id": start_id}
    return Blip2Config(text_config={"model_type": kind, **ids})


T5, OPT = config_of("t5"), config_of("opt")


def prompts_of(*lengths: int) -> Prompts:
    """Two image positions and as many words as `lengths` say, a row each."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Prompts(torch.where(mask, 30, 0), mask, image_positions=2)


def processor_of(kind: str):
    return tiny_processor() if kind == "t5" else tiny_opt_processor()


def test_rows_for_t5_are_worked_out_by_hand():
    packed = pack([[[5, 6, END], [7, END]], [[8, END]]], T5, prompts_of(1, 1))

    assert packed.token_ids.tolist() == [[0, 5, 6, 0, 7], [0, 8, 0, 0, 0]]
    assert packed.read_at.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert packed.targets.tolist() == [5, 6, END, 7, END, 8, END]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]
    assert packed.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_rows_behind_a_prompt_are_worked_out_by_hand():
    packed = pack([[[5, 6, END], [7, END]]], OPT, prompts_of(1))

    assert packed.token_ids.tolist() == [[5, 6, 7]]
    assert packed.read_at.tolist() == [2, 3, 4, 2, 5]
    assert packed.targets.tolist() == [5, 6, END, 7, END]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert packed.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_captions_go_on_from_the_last_word_of_their_own_prompt():
    packed = pack([[[5, END]], [[6, END]]], OPT, prompts_of(1, 3))

    assert packed.read_at.tolist() == [2, 5, 6 + 4, 6 + 5]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 0, 3], [0, 1, 2, 3, 4, 5]]


def test_the_padding_of_a_prompt_is_seen_by_itself_alone():
    packed = pack([[[5, END]], [[6, END]]], OPT, prompts_of(1, 3))

    assert packed.mask[0, 0, :, 3].int().tolist() == [0, 0, 0, 1, 0, 0]
    assert packed.mask[0, 0, 5].int().tolist() == [1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("config", [T5, OPT], ids=["t5", "opt"])
def test_every_position_sees_something_so_that_no_softmax_is_empty(config):
    packed = pack([[[5, 6, END]], [[7, END]], [[END]]], config, prompts_of(1, 4, 2))

    assert packed.mask.any(dim=-1).all()


def test_padding_sees_padding_only():
    packed = pack([[[5, 6, END]], [[7, END]]], T5, prompts_of(1, 1))

    assert packed.mask[1, 0, 2].tolist() == [False, False, True]


def test_the_decoder_start_is_the_models_and_not_the_padding():
    packed = pack([[[5, END], [6, END]], [[7, END]]], config_of("t5", start_id=9, pad_id=4), prompts_of(1, 1))

    assert packed.token_ids.tolist() == [[9, 5, 9, 6], [9, 7, 4, 4]]


@pytest.mark.parametrize("config", [T5, OPT], ids=["t5", "opt"])
def test_targets_are_every_caption_token_once(config):
    rows = [[[5, 6, END], [7, END]], [[8, END], [9, 10, 11, END], [END]]]

    packed = pack(rows, config, prompts_of(2, 1))

    assert packed.targets.tolist() == [token for row in rows for caption in row for token in caption]
    assert owners_of(packed).tolist() == [0] * 5 + [1] * 7


@pytest.mark.parametrize("kind", ["t5", "opt"])
def test_a_caption_is_its_words_and_the_end_token(kind: str):
    tokenizer = processor_of(kind).tokenizer

    (ids,), cut = encode_captions(tokenizer, ["a red dog"], config_of(kind), prompt="a photo of", max_tokens=32)

    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "red", "dog", "</s>"]
    assert cut == 0


@pytest.mark.parametrize("kind", ["t5", "opt"])
def test_a_long_caption_is_cut_counted_and_still_ends(kind: str):
    tokenizer = processor_of(kind).tokenizer
    captions = ["a red dog in the park", "a dog"]

    encoded, cut = encode_captions(tokenizer, captions, config_of(kind), prompt="", max_tokens=4)

    assert tokenizer.convert_ids_to_tokens(encoded[0]) == ["a", "red", "dog", "</s>"]
    assert tokenizer.convert_ids_to_tokens(encoded[1]) == ["a", "dog", "</s>"]
    assert cut == 1


@pytest.mark.parametrize("kind", ["t5", "opt"])
def test_a_caption_of_just_the_longest_length_is_not_cut(kind: str):
    tokenizer = processor_of(kind).tokenizer

    (ids,), cut = encode_captions(tokenizer, ["a red dog"], config_of(kind), prompt="", max_tokens=4)

    assert (len(ids), cut) == (4, 0)


@pytest.mark.parametrize("prompt", ["a photo of", ""])
def test_prompt_and_caption_of_a_decoder_only_model_read_as_one_text(prompt: str):
    tokenizer = _byte_level()

    (ids,), _ = encode_captions(tokenizer, ["a dog"], OPT, prompt=prompt, max_tokens=32)

    together = tokenizer(f"{prompt} a dog" if prompt else "a dog").input_ids
    assert tokenizer(prompt).input_ids + ids == [*together, END]


def _byte_level():
    """A tokenizer to which a space is part of the word behind it, as to OPT's."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    whole = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=whole)
