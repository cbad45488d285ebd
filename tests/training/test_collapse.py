"""Captions that no longer tell images apart are called that, and healthy ones are not."""

from dataclasses import replace

import pytest

from captioncrafter.training.collapse import Validation, signs_of_collapse

HEALTHY = Validation(cider=0.8, shuffled_cider=0.1, distinct=0.7, copied=0.1, mean_length=9.5)


def test_a_healthy_validation_has_no_sign():
    assert signs_of_collapse(HEALTHY) == []


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ({"distinct": 0.02}, "only 2 % of the validation captions are distinct."),
        ({"copied": 0.97}, "97 % of the validation captions stand word for word in the training ones."),
        ({"cider": 0.21, "shuffled_cider": 0.2}, "score CIDEr 21.0 on their own images and 20.0 on other ones"),
        ({"cider": 0.1, "shuffled_cider": 0.2}, "they hardly depend on the image"),
    ],
)
def test_each_sign_is_caught_alone(change: dict[str, float], sign: str):
    (found,) = signs_of_collapse(replace(HEALTHY, **change))

    assert sign in found


def test_one_caption_for_every_image_shows_two_signs():
    found = signs_of_collapse(replace(HEALTHY, distinct=0.001, cider=0.2, shuffled_cider=0.2))

    assert len(found) == 2


@pytest.mark.parametrize("change", [{"distinct": 0.21}, {"copied": 0.89}, {"cider": 0.25, "shuffled_cider": 0.2}])
def test_just_above_each_bound_nothing_is_said(change: dict[str, float]):
    assert signs_of_collapse(replace(HEALTHY, **change)) == []


def test_captions_worth_nothing_anywhere_are_no_collapse_by_themselves():
    assert signs_of_collapse(replace(HEALTHY, cider=0.0, shuffled_cider=0.0)) == []


def test_answers_that_people_repeat_too_are_no_collapse():
    yes_or_no = replace(HEALTHY, distinct=0.004, copied=1.0, people_distinct=0.005, people_copied=1.0)

    assert signs_of_collapse(yes_or_no) == []


def test_answers_far_less_distinct_than_those_of_people_are_a_sign():
    (sign,) = signs_of_collapse(replace(HEALTHY, distinct=0.004, people_distinct=0.1))

    assert "distinct" in sign
