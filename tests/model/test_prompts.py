"""Our prompts are the processor's own, token for token."""

import shutil
from pathlib import Path

import pytest
import torch

from captioncrafter.model import checkpoint
from captioncrafter.model.prompts import encode_prompt, stacked
from families import Family

PROMPTS = ["a photo of", "", " ", "question what colour answer", "a  photo \n of", "unknownword"]


@pytest.mark.parametrize("text", PROMPTS)
def test_the_prompt_has_the_ids_that_the_processor_writes(family: Family, text: str):
    expected = family.processor(images=[torch.zeros(3, 32, 32)], text=text, return_tensors="pt").input_ids[0]

    assert torch.equal(encode_prompt(family.processor, text).input_ids, expected)


@pytest.mark.parametrize("text", ["a photo of", "", "Question: what is this? Answer:", "  Ein Foto,\tüber "])
def test_the_published_processor_writes_the_same_prompt(published_files: Path, tmp_path: Path, text: str):
    shutil.copytree(published_files.parents[1] / "tokenizers" / "t5", tmp_path / "published")
    shutil.copytree(published_files, tmp_path / "published", dirs_exist_ok=True)
    published = checkpoint.load_processor(checkpoint.find(str(tmp_path / "published")))

    expected = published(images=[torch.zeros(3, 224, 224)], text=text, return_tensors="pt").input_ids[0]

    assert torch.equal(encode_prompt(published, text).input_ids, expected)


def test_a_prompt_has_a_position_for_each_query_and_its_words(family: Family):
    prompt = encode_prompt(family.processor, "a photo of")

    assert prompt.image_positions == family.config.num_query_tokens
    assert len(prompt) == prompt.image_positions + len(prompt.words)
    assert set(prompt.input_ids[: prompt.image_positions].tolist()) == {family.config.image_token_index}
    assert family.config.image_token_index not in prompt.words


def test_the_ends_of_a_prompt_are_the_tokenizers(family: Family):
    words = encode_prompt(family.processor, "a photo").words

    tokens = family.processor.tokenizer.convert_ids_to_tokens(words)

    assert tokens == (
        ["<s>", "a", "photo"] if family.config.text_config.model_type == "opt" else ["a", "photo", "</s>"]
    )


def test_a_shorter_prompt_is_padded_behind_and_masked(family: Family):
    short, long = (encode_prompt(family.processor, text) for text in ("a", "a photo of"))

    prompts = stacked([short, long], pad_id=7)

    assert prompts.words.tolist() == [[*short.words.tolist(), 7, 7], long.words.tolist()]
    assert prompts.mask.tolist() == [[True, True, False, False], [True] * 4]


def test_the_images_positions_always_hold_something(family: Family):
    short, long = (encode_prompt(family.processor, text) for text in ("a", "a photo of"))

    prompts = stacked([short, long], pad_id=0)

    assert prompts.positions.sum(1).tolist() == [len(short), len(long)]
    assert prompts.positions[:, :3].all()


def test_a_word_that_is_the_padding_token_is_not_taken_for_padding(family: Family):
    prompt = encode_prompt(family.processor, "a <pad> dog")

    assert 0 in prompt.words
    assert stacked([prompt], pad_id=0).mask.all()


def test_moving_prompts_changes_nothing_in_them(family: Family):
    prompts = family.prompts_of(range(3))

    moved = prompts.to(torch.device("cpu"))

    assert torch.equal(moved.words, prompts.words)
    assert torch.equal(moved.positions, prompts.positions)
