"""ROUGE-L, worked by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioncrafter.metrics.references import References
from captioncrafter.metrics.rouge import common_length, rouge_l

WORDS = st.lists(st.sampled_from("abc"), max_size=9)


def rouge_of(prediction: str, *references: str) -> float:
    return float(rouge_l([prediction], References({"image": references}))[0])


def test_one_word_changed_of_six_is_five_sixths():
    # the longest common subsequence is "the cat on the mat"; precision and recall are both 5/6
    assert rouge_of("the cat sat on the mat", "the cat is on the mat") == pytest.approx(5 / 6, abs=1e-15)


def test_recall_weighs_more_than_precision():
    # one word of two found, nothing wrong: P = 1, R = 1/2, F = 2.44 · 1/2 / (1/2 + 1.44)
    assert rouge_of("dogs", "two dogs") == pytest.approx(1.22 / 1.94, abs=1e-15)
    # the other way round: P = 1/2, R = 1
    assert rouge_of("two dogs", "dogs") == pytest.approx(1.22 / 1.72, abs=1e-15)


def test_best_precision_and_best_recall_may_come_from_different_references():
    # "b c": P = 2/4, R = 1; "b c d x y z": P = 3/4, R = 1/2; together P = 3/4, R = 1
    assert rouge_of("b c d e", "b c", "b c d x y z") == pytest.approx(2.44 * 0.75 / (1 + 1.44 * 0.75), abs=1e-15)


def test_words_in_another_order_are_not_common():
    assert common_length(["dogs", "two"], ["two", "dogs"]) == 1


def test_nothing_in_common_scores_zero():
    assert rouge_of("cats", "two dogs") == 0


def test_an_empty_caption_scores_zero_against_words():
    assert rouge_of("", "two dogs") == 0


@given(first=WORDS, second=WORDS)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_the_common_length_is_that_of_the_textbook_table(first: list[str], second: list[str]):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])

    assert common_length(first, second) == table[-1][-1]


def test_the_common_length_is_right_beyond_a_machine_word():
    first = [str(number) for number in range(300)]

    assert common_length(first, first[::3]) == 100
