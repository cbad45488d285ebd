"""Captions to tokens."""

from pathlib import Path

import pytest

from captioncrafter.errors import DataError, ScorerError
from captioncrafter.metrics.java import CaptionScorer
from captioncrafter.metrics.tokenizer import tokenize
from fake_java import write_fake_java


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("Two Dogs run.", "two dogs run"),
        ("A dog, a cat; and - a bird!", "a dog a cat and a bird"),
        ("the dog's ball isn't red", "the dog 's ball is n't red"),
        ("a dog (brown)", "a dog -lrb- brown -rrb-"),
        ("\"a\" ``b''", "a b"),
        ("  a\t dog \n", "a dog"),
        ("...", ""),
        ("", ""),
    ],
)
def test_a_caption_becomes(caption: str, tokens: str):
    assert tokenize([caption]) == [tokens]


def test_no_captions_are_no_tokens():
    assert tokenize([]) == []


@pytest.mark.parametrize("captions", [["", ""], ["", "", "a dog"], ["a dog", "", ""], ["a", "", "b"], ["...", "!"]])
def test_every_caption_keeps_its_line_where_others_are_empty(captions: list[str]):
    assert tokenize(captions) == [caption.strip(".!") for caption in captions]


@pytest.mark.parametrize("lines", ["=1\\n=a dog\\n", "=3\\n=a\\n=b\\n=c\\n", "=3\\n=a dog\\n=a cat\\n=\\n"])
def test_lines_that_are_not_one_a_caption_are_an_error(tmp_path: Path, lines: str):
    fake = CaptionScorer(write_fake_java(tmp_path, f"read request; printf '{lines}'; exec sleep 60"))

    with pytest.raises(ScorerError, match=r"the tokenizer gave \d lines? for 2 captions"):
        tokenize(["a dog", "a cat"], fake)
    fake.close()


def test_half_a_character_is_refused_by_its_caption():
    with pytest.raises(DataError, match=r"caption 2 of 3, 'a \\ud83d dog': U\+D83D is half of a character"):
        tokenize(["a cat", "a \ud83d\n dog", "\udc00"])
