"""How varied captions are, worked by hand."""

import pytest

from captioncrafter.metrics import diversity

CAPTIONS = ["A dog runs.", "a dog runs", "two cats", "A dog runs."]


def test_words_are_lower_case_without_punctuation():
    assert diversity.words("The dog's ball: RED, isn’t it?") == ["the", "dog's", "ball", "red", "isn’t", "it"]


def test_captions_are_distinct_as_texts():
    assert diversity.distinct_captions(CAPTIONS) == 3 / 4


def test_mean_length_counts_words():
    assert diversity.mean_length(CAPTIONS) == 11 / 4


def test_distinct_ngrams_are_over_all_of_them():
    # words: a dog runs, three times, and two cats; bigrams: "a dog" and "dog runs" three times, "two cats"
    assert diversity.distinct_ngrams(CAPTIONS, 1) == 5 / 11
    assert diversity.distinct_ngrams(CAPTIONS, 2) == 3 / 7


def test_the_vocabulary_is_of_different_words():
    assert diversity.vocabulary(CAPTIONS) == 5


def test_a_caption_is_novel_when_no_known_one_has_its_words():
    assert diversity.novel_captions(CAPTIONS, ["A DOG RUNS!", "three cats"]) == 1 / 4


@pytest.mark.parametrize(
    ("caption", "repeats"),
    [("a dog Dog runs", True), ("dog, dog", True), ("a dog and a dog", False), ("a dog a dog", False), ("", False)],
)
def test_a_word_is_repeated_when_it_stands_twice_in_a_row(caption: str, repeats: bool):
    assert diversity.repeats_a_word(caption) is repeats


@pytest.mark.parametrize(
    ("caption", "repeats"),
    [
        ("A dog a dog.", True),
        ("two dogs run on grass on grass", True),
        ("a dog in the grass with a dog in the sun", True),
        ("on the red grass on the red grass", True),
        ("a man and a man", False),
        ("dog dog", False),
        ("a b a", False),
        ("", False),
    ],
)
def test_a_phrase_is_repeated_straight_away_or_when_it_has_three_words(caption: str, repeats: bool):
    assert diversity.repeats_a_phrase(caption) is repeats


def test_the_share_of_captions_that_repeat_counts_them():
    assert diversity.share_of(["a a", "a b", "b b", "a"], diversity.repeats_a_word) == 1 / 2


@pytest.mark.parametrize(
    "share",
    [
        diversity.distinct_captions,
        diversity.mean_length,
        lambda captions: diversity.distinct_ngrams(captions, 1),
        lambda captions: diversity.novel_captions(captions, ["a dog"]),
        lambda captions: diversity.share_of(captions, diversity.repeats_a_word),
    ],
)
def test_no_captions_have_none_of_it(share):
    assert share([]) == 0


def test_captions_of_no_words_have_no_ngrams():
    assert diversity.distinct_ngrams(["...", ""], 1) == 0


def test_the_description_has_all_of_it():
    assert diversity.describe(CAPTIONS) == {
        "mean_length": 11 / 4,
        "distinct_captions": 3 / 4,
        "distinct_1": 5 / 11,
        "distinct_2": 3 / 7,
        "vocabulary": 5,
        "repeated_word": 0,
        "repeated_phrase": 0,
    }
