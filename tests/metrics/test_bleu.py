"""BLEU, worked by hand. The guards against division by zero show from the seventh digit on."""

import math

import numpy as np
import pytest

from captioncrafter.metrics.bleu import bleu, bleu_statistics
from captioncrafter.metrics.references import References


def statistics_of(prediction: str, *references: str) -> np.ndarray:
    return bleu_statistics([prediction], References({"image": references}))[0]


def test_precisions_multiply_into_geometric_means():
    # right of guessed: 5 of 6 words, 3 of 5 bigrams, 1 of 4 trigrams, 0 of 3 of order four; lengths equal
    statistics = statistics_of("the cat sat on the mat", "the cat is on the mat")

    assert statistics.tolist() == [6, 6, 6, 5, 4, 3, 5, 3, 1, 0]
    assert bleu(statistics)[:3] == pytest.approx([5 / 6, math.sqrt(1 / 2), (1 / 8) ** (1 / 3)], rel=1e-6)
    assert bleu(statistics)[3] < 1e-3


def test_a_word_counts_as_right_as_often_as_one_reference_has_it():
    # Papineni's example: "the" is there twice in the first reference
    statistics = statistics_of("the the the the", "the cat is on the mat", "there is a cat on the mat")

    assert statistics[6] == 2


def test_the_prediction_is_held_to_the_closest_reference_length():
    assert statistics_of("a b c d e", "a b", "a b c d e f", "a b c d e f g h")[1] == 6


def test_of_two_lengths_as_close_the_shorter_counts():
    assert statistics_of("a b c d", "a b c d e", "a b c")[1] == 3


def test_a_prediction_half_as_long_pays_one_over_e():
    statistics = statistics_of("two dogs", "two dogs run fast")

    assert bleu(statistics)[0] == pytest.approx(math.exp(-1), rel=1e-6)


def test_a_longer_prediction_pays_nothing_but_precision():
    statistics = statistics_of("two dogs run fast", "two dogs")

    assert bleu(statistics)[0] == pytest.approx(1 / 2, rel=1e-6)


def test_a_prediction_equal_to_a_reference_scores_one():
    statistics = statistics_of("two dogs run fast", "a cat", "two dogs run fast")

    assert bleu(statistics) == pytest.approx([1, 1, 1, 1], rel=1e-6)


def test_an_empty_prediction_scores_zero():
    assert bleu(statistics_of("", "two dogs run fast")).tolist() == [0, 0, 0, 0]


def test_corpus_bleu_is_of_summed_counts_not_a_mean_of_scores():
    references = References({"1": ["a b c d"], "2": ["e f"]})

    statistics = bleu_statistics(["a b c d", "x y"], references)

    # 4 words of 6 are right; the mean of 1 and 0 would be 1/2
    assert bleu(statistics.sum(0))[0] == pytest.approx(4 / 6, rel=1e-6)
