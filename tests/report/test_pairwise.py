"""Differences over the same images, from what a run keeps on disk."""

import random
from collections.abc import Sequence

import pytest

from captioncrafter.report.content import System
from captioncrafter.report.pairwise import Against, against, by_system
from pages import numbered

IMAGES = 200


def scored(name: str, values: Sequence[float], metric: str = "CIDEr", corpus: float | None = None) -> System:
    """A captioner with these values on single images; on all their mean, unless `corpus` says otherwise."""
    captions = numbered(len(values))
    mean = sum(values) / len(values) if values else 0.0
    single = {image: {metric: value} for image, value in zip(captions, values, strict=True)}
    return System(name, captions, {"metrics": {metric: {"value": mean if corpus is None else corpus}}}, single)


def drawn(seed: int, shift: float = 0.0) -> list[float]:
    dice = random.Random(seed)
    return [1 + shift + dice.gauss(0, 0.2) for _ in range(IMAGES)]


def test_a_clear_difference_is_sure_and_an_interval_lies_around_it():
    (one,) = against([scored("mine", drawn(1, 0.1)), scored("base", drawn(2))])

    assert one.sure
    assert one.low < one.value < one.high
    assert one.value == pytest.approx(0.1, abs=0.06)
    assert one.low > 0


def test_two_samples_of_one_system_are_not_told_apart():
    (one,) = against([scored("mine", drawn(1)), scored("base", drawn(2))])

    assert not one.sure
    assert one.low < 0 < one.high


def test_the_difference_is_the_subjects_over_the_other():
    (one,) = against([scored("mine", [0.5, 0.6, 0.7, 0.7]), scored("base", [0.1, 0.2, 0.8, 0.7])])

    assert one.value == pytest.approx(0.175)
    assert (one.up, one.down) == (2, 1)


def test_more_tests_make_each_of_them_harder_to_pass():
    subject, base, more = scored("mine", drawn(1, 0.05)), scored("base", drawn(2)), scored("more", drawn(3))

    (alone,) = against([subject, base])
    among = against([subject, base, more])

    assert among[0].p > alone.p


def test_a_metric_that_is_no_mean_of_single_images_is_not_tested():
    subject = scored("mine", drawn(1), "METEOR", corpus=0.3)

    assert against([subject, scored("base", drawn(2), "METEOR")]) == []


def test_a_system_without_values_of_every_image_is_not_tested():
    short = scored("base", drawn(2)[:-1])

    assert against([scored("mine", drawn(1)), short, scored("third", drawn(3))])[0].place == 2


@pytest.mark.parametrize("systems", [[System("mine", {})], [scored("mine", [0.5]), scored("base", [0.4])]])
def test_without_something_to_compare_nothing_is(systems: list[System]):
    assert against(systems) == []


def test_each_system_has_a_row_and_each_metric_its_usual_place():
    systems = [System(name, {}) for name in ("mine", "base", "other")]
    tested = [
        Against(metric, place, 0.1, 0.0, 0.2, 0.01, 1, 0)
        for metric, place in (("SPICE", 2), ("CIDEr", 2), ("CIDEr", 1))
    ]

    metrics, rows = by_system(systems, tested)

    assert metrics == ["CIDEr", "SPICE"]
    assert [(row.name, [one and one.metric for one in row.found]) for row in rows] == [
        ("base", ["CIDEr", None]),
        ("other", ["CIDEr", "SPICE"]),
    ]


@pytest.mark.parametrize(
    ("p", "told"), [(0.0421, "p = 0.042"), (0.001, "p = 0.001"), (0.0004, "p < 0.001"), (1.0, "p = 1.000")]
)
def test_a_p_value_is_told_to_three_digits(p: float, told: str):
    assert Against("CIDEr", 1, 0.1, 0.0, 0.2, p, 1, 0).chance == told


def test_differences_are_told_times_100_with_their_sign():
    one = Against("CIDEr", 1, -0.1234, -0.2, 0.0004, 0.5, 1, 0)

    assert (one.difference, one.interval) == ("−12.3", "−20.0 to 0.0")
