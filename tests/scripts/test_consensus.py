"""Captions that say what the others say count more, and a photo counts the same whatever they say."""

import pytest

from miniature.consensus import consensus

PHOTOS = [
    ["a dog runs on grass", "a brown dog runs on grass", "a dog runs on the grass", "what a day"],
    ["two boys in a pool", "boys swim in a pool", "two boys swim in the water", "two boys in a blue pool"],
    ["a red car", "the car is red", "a man by a car", "some traffic"],
]


def test_the_weights_of_a_photo_average_to_one():
    assert [sum(weights) / len(weights) for weights in consensus(PHOTOS)] == pytest.approx([1.0] * 3)


def test_a_caption_that_no_other_agrees_with_counts_least():
    weights = consensus(PHOTOS)[0]

    assert min(range(4), key=weights.__getitem__) == 3
    assert weights[3] == pytest.approx(0.5, abs=0.05)


def test_where_no_caption_agrees_with_another_all_count_the_same():
    assert consensus([*PHOTOS, ["one", "two", "three", "four"]])[3] == pytest.approx([1.0] * 4)
