"""Answers: exact match, VQA v2's normalisation and accuracy, and both together on a scorecard."""

import numpy as np
import pytest

from captioncrafter.errors import DataError
from captioncrafter.metrics.scorecard import Scorecard
from captioncrafter.metrics.vqa import ANSWER_METRICS, answers_scored, exact_match, normalise_answer, vqa_accuracy

ANSWERS = {"a/count": ["two"], "a/colour": ["red", "crimson"], "b/yes-no": ["yes"], "b/side": ["left"]}
PREDICTIONS = {"b/side": "right", "a/count": "2", "a/colour": "Red", "b/yes-no": "yes"}


@pytest.fixture(scope="module")
def card() -> Scorecard:
    return answers_scored(PREDICTIONS, ANSWERS)


@pytest.mark.parametrize("prediction", ["a cat", "A  Cat", " a cat\n"])
def test_case_and_white_space_are_no_matter_to_exact_match(prediction: str):
    assert exact_match(prediction, ["a dog", "a cat"]) == 1.0


@pytest.mark.parametrize("prediction", ["cat", "a cat.", "a cat sits", ""])
def test_exact_match_takes_no_other_text(prediction: str):
    assert exact_match(prediction, ["a cat"]) == 0.0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Dog", "dog"),
        ("a man and an umbrella", "man and umbrella"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("its a dog.", "its dog"),
        ("3.5", "3.5"),
        ("3. 5", "3 5"),
        ("t-shirt", "t shirt"),
        ("yes, sir", "yes sir"),
        ("red,blue", "red blue"),
        ("2,000", "2000"),
        ("2,000-ton", "2000ton"),
        ("either/or", "either or"),
        ("red /blue/green", "red bluegreen"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("oclock", "o'clock"),
        ("10:30", "10:30"),
        ("dog's", "dog's"),
        ("a", ""),
    ],
)
def test_answers_are_made_equal_as_the_official_code_does(text: str, normal: str):
    assert normalise_answer(text) == normal


def test_no_more_than_32_full_stops_go_as_in_the_official_code():
    assert normalise_answer("." * 40) == "." * 8


@pytest.mark.parametrize(("agreeing", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_with_ten_answers_each_agreeing_one_is_worth_a_third_of_the_other_nine(agreeing: int, worth: float):
    # one of ten: nine subsets have it (1/3), one has not; three of ten: seven subsets give 1, three give 2/3
    answers = ["yes"] * agreeing + ["no"] * (10 - agreeing)

    assert vqa_accuracy("yes", answers) == pytest.approx(worth, abs=1e-12)


def test_answers_that_differ_in_spelling_only_agree():
    answers = ["2", "two", "Two.", "the two", *["three"] * 6]

    assert vqa_accuracy("two", answers) == 1.0


def test_where_ten_people_agree_to_the_letter_texts_are_compared_as_they_stand():
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 10) == 1.0
    assert vqa_accuracy("t shirt", ["t-shirt"] * 10) == 0.0
    assert vqa_accuracy("t shirt", [*["t-shirt"] * 9, "shirt"]) == 1.0


@pytest.mark.parametrize("answers", [["2"], ["two", "a couple"], ["none", "two", "many"], ["two", *["no"] * 8]])
def test_fewer_than_ten_answers_are_accepted_ones_and_no_votes(answers: list[str]):
    assert vqa_accuracy("Two", answers) == 1.0
    assert vqa_accuracy("four", answers) == 0.0


def test_each_row_has_both_values_in_the_order_of_the_answers(card: Scorecard):
    assert card.rows() == [
        {"image_id": "a/count", "exact match": 0.0, "VQA accuracy": 1.0},
        {"image_id": "a/colour", "exact match": 1.0, "VQA accuracy": 1.0},
        {"image_id": "b/yes-no", "exact match": 1.0, "VQA accuracy": 1.0},
        {"image_id": "b/side", "exact match": 0.0, "VQA accuracy": 0.0},
    ]


def test_the_corpus_values_are_means_over_the_rows(card: Scorecard):
    assert {metric: card.value(metric) for metric in card.metrics} == {"exact match": 0.5, "VQA accuracy": 0.75}


def test_both_come_with_intervals_under_their_names():
    answers = {str(row): ["yes"] for row in range(100)}
    predictions = {str(row): "yes" if row % 4 else "no" for row in range(100)}

    found = answers_scored(predictions, answers).to_json(resamples=2000, seed=0)

    assert tuple(found) == ANSWER_METRICS
    assert found["VQA accuracy"]["value"] == 0.75
    deviation = np.sqrt(0.75 * 0.25 / 100)
    assert found["VQA accuracy"]["low"] == pytest.approx(0.75 - 1.96 * deviation, abs=0.015)
    assert found["VQA accuracy"]["high"] == pytest.approx(0.75 + 1.96 * deviation, abs=0.015)


def test_a_missing_prediction_is_refused_by_name():
    with pytest.raises(DataError, match=r"1 image has no prediction \(b/side first\), 0 predictions"):
        answers_scored({row: text for row, text in PREDICTIONS.items() if row != "b/side"}, ANSWERS)


def test_no_answers_at_all_are_refused():
    with pytest.raises(DataError, match="no answers to score against"):
        answers_scored({}, {})


def test_answer_metrics_stand_beside_others_of_the_same_rows(card: Scorecard):
    other = Scorecard(card.image_ids, {"again": card.metrics["exact match"]})

    both = other.beside(card)

    assert tuple(both.metrics) == ("again", *ANSWER_METRICS)
    assert both.intervals(resamples=100, seed=3)["again"] == both.intervals(resamples=100, seed=3)["exact match"]


def test_metrics_of_other_rows_do_not_stand_beside_each_other(card: Scorecard):
    with pytest.raises(ValueError, match="different images"):
        card.beside(Scorecard(card.image_ids[::-1], card.metrics))
