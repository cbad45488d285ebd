"""CIDEr-D, worked by hand: with two images, a word in one image's captions weighs ln 2 and one in both nothing."""

import math

import pytest

from captioncrafter.metrics.cider import cider_d
from captioncrafter.metrics.references import References

TWO = {"1": ["red dog"], "2": ["red cat"]}


def test_an_equal_caption_of_two_words_scores_five():
    # "dog" and "red dog" match fully, orders three and four are empty: 10 · (1 + 1 + 0 + 0) / 4
    assert cider_d(["red dog", "red cat"], References(TWO)) == pytest.approx([5, 5], abs=1e-12)


def test_an_equal_caption_of_four_rare_words_scores_ten():
    references = References({"1": ["one two three four"], "2": ["five"]})

    assert cider_d(["one two three four", ""], references) == pytest.approx([10, 0], abs=1e-12)


def test_words_that_every_image_has_are_worth_nothing():
    assert cider_d(["red", "red"], References(TWO)).tolist() == [0, 0]


def test_a_length_that_differs_by_one_bigram_is_penalised():
    # "dog" matches in order one; the lengths, in bigrams, are 0 and 1; sigma is 6
    assert cider_d(["dog", ""], References(TWO))[0] == pytest.approx(10 / 4 * math.exp(-1 / 72), abs=1e-12)


def test_a_repeated_word_is_clipped_to_the_references():
    # weights 2 ln 2 against ln 2, clipped: ln²2 / (2 ln 2 · ln 2) = 1/2 in order one; "dog dog" matches nothing
    assert cider_d(["dog dog", ""], References(TWO))[0] == pytest.approx(10 / 4 / 2, abs=1e-12)


def test_an_images_value_is_the_mean_over_its_references():
    references = References({"1": ["red dog", "red fox"], "2": ["red cat"]})

    assert cider_d(["red dog", ""], references)[0] == pytest.approx(5 / 2, abs=1e-12)


def test_a_word_in_two_captions_of_one_image_counts_as_one_document():
    references = References({"1": ["red dog", "red dog"], "2": ["red cat"]})

    assert cider_d(["red dog", ""], references)[0] == pytest.approx(5, abs=1e-12)


def test_a_single_image_scores_zero():
    assert cider_d(["red dog"], References({"1": ["red dog"]})).tolist() == [0]


def test_document_frequencies_of_another_corpus_replace_the_sets_own():
    corpus = References({"1": ["dog"], "2": ["dog"], "3": ["cat"], "4": ["bird"]})
    references = References({"1": ["dog cat"]}, document_frequencies=corpus)

    found = cider_d(["dog"], references)[0]

    # "dog" weighs ln(4/2), "cat" ln(4/1): the cosine is ln 2 / |(ln 2, 2 ln 2)| = 1/√5, one bigram apart
    assert found == pytest.approx(10 / 4 / math.sqrt(5) * math.exp(-1 / 72), abs=1e-12)
