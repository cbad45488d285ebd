"""Paired tests: what differs is found, what does not is not, and how often each is wrong."""

import itertools

import numpy as np
import pytest

from captioncrafter.metrics import resamples
from captioncrafter.metrics.bleu import bleu
from captioncrafter.metrics.resamples import Measured, bootstrap, mean_of, middle
from captioncrafter.metrics.scorecard import Scorecard
from captioncrafter.metrics.significance import differences, holm, p_values


def card(**values: np.ndarray | Measured) -> Scorecard:
    """A scorecard of metrics that are means of these values."""
    measured = {name: one if isinstance(one, Measured) else mean_of(one) for name, one in values.items()}
    return Scorecard(tuple(map(str, range(len(next(iter(measured.values())).per_image)))), measured)


def random_bleu(dice: np.random.Generator, images: int, share_right: float) -> Measured:
    """BLEU-2 of captions of 8 to 12 words of which about this share is right."""
    length = dice.integers(8, 13, size=(images, 1))
    guessed = length - np.arange(4)
    right = dice.binomial(guessed, share_right ** np.arange(1, 5))
    statistics = np.concatenate([length, np.full_like(length, 10), guessed, right], axis=1).astype(float)
    value = float(bleu(statistics.sum(0))[1])
    return Measured(value, bleu(statistics)[:, 1], statistics, lambda sums, _: bleu(sums)[:, 1])


def both_p(first: Scorecard, second: Scorecard, exchanges: int = 999) -> dict[str, float]:
    return p_values(first.metrics, [second.metrics], exchanges=exchanges, seed=1)[0]


def test_holms_correction_is_the_worked_example():
    # .01 × 4; .02 × 3 = .06; .03 × 2 = .06; .04 × 1, but no smaller than the one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_a_corrected_p_value_is_at_most_1():
    assert holm([0.6, 0.9, 0.5]) == [1.0, 1.0, 1.0]


def test_a_single_p_value_needs_no_correction():
    assert holm([0.04]) == [0.04]


def test_identical_systems_have_a_p_value_of_1_and_no_difference():
    dice = np.random.default_rng(0)
    same = card(mean=dice.normal(size=50), BLEU=random_bleu(dice, 50, 0.6))

    found = differences(same, {"again": same}, resamples=200, seed=0)["again"]

    for difference in found.values():
        assert (difference.p, difference.p_holm) == (1.0, 1.0)
        assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
        assert (difference.wins, difference.ties, difference.losses) == (0, 50, 0)


def test_the_p_value_is_that_of_all_exchanges_counted():
    first, second = np.array([0.1, 0.5, 0.3, 0.9, 0.2, 0.4]), np.array([0.4, 0.6, 0.2, 1.3, 0.8, 0.5])
    gains = second - first
    observed = abs(gains.sum())
    exact = np.mean([abs(gains @ signs) >= observed - 1e-9 for signs in itertools.product((-1, 1), repeat=6)])

    found = both_p(card(m=first), card(m=second), exchanges=20_000)["m"]

    assert found == pytest.approx(exact, abs=0.005)


def test_exchanged_captions_are_scored_as_a_corpus():
    # Two images: exchanging none or both leaves |difference| as it is, exchanging one gives the other two corpora.
    dice = np.random.default_rng(3)
    first, second = random_bleu(dice, 2, 0.9), random_bleu(dice, 2, 0.4)
    mixed = bleu(np.stack([first.statistics[0] + second.statistics[1], second.statistics[0] + first.statistics[1]]))
    assert abs(mixed[0, 1] - mixed[1, 1]) < abs(first.value - second.value)

    found = both_p(card(m=first), card(m=second), exchanges=20_000)["m"]

    assert found == pytest.approx(0.5, abs=0.02)


def test_the_smallest_p_value_is_one_over_exchanges_and_one():
    values = np.random.default_rng(0).normal(size=100)

    assert both_p(card(m=values), card(m=values + 1), exchanges=199)["m"] == 1 / 200


def test_the_direction_of_a_difference_does_not_change_its_p_value():
    dice = np.random.default_rng(2)
    first, second = card(m=dice.normal(size=40)), card(m=dice.normal(0.3, size=40))

    assert both_p(first, second) == both_p(second, first)


def test_a_known_difference_is_found():
    dice = np.random.default_rng(4)
    worse, better = card(m=random_bleu(dice, 200, 0.6)), card(m=random_bleu(dice, 200, 0.7))

    found = differences(worse, {"better": better}, resamples=999, seed=0)["better"]["m"]

    assert found.p_holm < 0.01
    assert 0 < found.low < found.value < found.high
    assert found.value == better.value("m") - worse.value("m")
    assert found.wins > found.losses


@pytest.mark.parametrize("kind", ["mean", "BLEU"])
def test_false_alarms_of_the_p_value_are_5_in_100(kind: str):
    # Both are samples of one system, and images differ in how hard they are.
    dice = np.random.default_rng(6)
    alarms, experiments = 0, 600
    for number in range(experiments):
        hard = dice.normal(size=60)
        first, second = (
            card(m=hard + dice.exponential(size=60)) if kind == "mean" else card(m=random_bleu(dice, 60, 0.6))
            for _ in range(2)
        )
        (p,) = p_values(first.metrics, [second.metrics], exchanges=199, seed=number)
        alarms += p["m"] <= 0.05

    assert 0.03 <= alarms / experiments <= 0.07


def test_false_alarms_of_a_whole_comparison_are_5_in_100_at_most():
    # Two systems against a baseline of the same quality, on three metrics each.
    dice = np.random.default_rng(8)
    alarms, experiments = 0, 400
    for number in range(experiments):
        base, *others = (card(**{name: dice.normal(size=40) for name in "abc"}) for _ in range(3))
        p = p_values(base.metrics, [one.metrics for one in others], exchanges=299, seed=number)
        alarms += min(holm([value for one in p for value in one.values()])) <= 0.05

    assert 0.015 <= alarms / experiments <= 0.075


def test_intervals_of_a_difference_hold_the_true_one_about_95_times_in_100():
    dice = np.random.default_rng(9)
    held, experiments = 0, 400
    for number in range(experiments):
        hard = dice.normal(size=80)
        first, second = (card(m=hard + dice.normal(mean, 0.5, size=80)) for mean in (0.0, 0.2))
        base, other = bootstrap([first.metrics, second.metrics], resamples=200, seed=number)
        low, high = middle(other["m"] - base["m"])
        held += low <= 0.2 <= high

    assert 0.91 <= held / experiments <= 0.975


def test_the_paired_interval_is_narrower_than_the_unpaired_where_images_are_hard_for_both():
    dice = np.random.default_rng(10)
    hard = dice.normal(size=300)
    first, second = (card(m=hard + dice.normal(scale=0.2, size=300)) for _ in range(2))

    paired = differences(first, {"second": second}, resamples=1000, seed=0)["second"]["m"]

    (low, high), (other_low, other_high) = (one.intervals(resamples=1000, seed=0)["m"] for one in (first, second))
    unpaired = np.hypot(high - low, other_high - other_low)
    assert paired.high - paired.low < 0.3 * unpaired


def test_bleu_where_no_4_gram_is_right_is_no_difference():
    # coco-caption's guards leave a trace of the shorter n-grams in BLEU-4.
    dice = np.random.default_rng(15)
    found = []
    for share in (0.3, 0.9):
        statistics = random_bleu(dice, 20, share).statistics
        statistics[:, 9] = 0
        single, value = bleu(statistics)[:, 3], float(bleu(statistics.sum(0))[3])
        found.append(card(m=Measured(value, single, statistics, lambda sums, _: bleu(sums)[:, 3])))
    less, more = found
    assert 1e-6 < less.value("m") < more.value("m")

    difference = differences(less, {"more": more}, resamples=199, seed=0)["more"]["m"]

    assert (difference.p, difference.ties) == (1.0, 20)


def test_wins_ties_and_losses_are_counted_per_image():
    first, second = card(m=np.array([0.1, 0.5, 0.3, 0.2])), card(m=np.array([0.2, 0.5001, 0.1, 0.4]))

    found = differences(first, {"second": second}, resamples=100, seed=0)["second"]["m"]

    assert (found.wins, found.ties, found.losses) == (2, 1, 1)


def test_the_correction_is_over_all_systems_and_metrics():
    dice = np.random.default_rng(11)
    base, one, two = (card(a=dice.normal(size=30), b=dice.normal(size=30)) for _ in range(3))

    found = differences(base, {"one": one, "two": two}, resamples=200, seed=0)

    single = [found[name][metric].p for name in ("one", "two") for metric in "ab"]
    assert [found[name][metric].p_holm for name in ("one", "two") for metric in "ab"] == holm(single)


def test_a_system_gets_the_same_numbers_whoever_else_is_compared():
    dice = np.random.default_rng(12)
    base, one, two = (card(a=dice.normal(size=30), b=random_bleu(dice, 30, 0.5)) for _ in range(3))

    alone = differences(base, {"two": two}, resamples=200, seed=5)["two"]["b"]
    beside = differences(base, {"one": one, "two": two}, resamples=200, seed=5)["two"]["b"]

    assert (alone.p, alone.low, alone.high) == (beside.p, beside.low, beside.high)


def test_p_values_are_the_same_however_many_exchanges_are_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch):
    dice = np.random.default_rng(13)
    first, second = card(m=dice.normal(size=70)), card(m=dice.normal(0.1, size=70))
    all_at_once = both_p(first, second)

    monkeypatch.setattr(resamples, "_DRAWN_AT_A_TIME", 7 * 70)

    assert both_p(first, second) == all_at_once


def test_another_seed_draws_otherwise():
    dice = np.random.default_rng(14)
    first, second = card(m=dice.normal(size=70)), card(m=dice.normal(0.2, size=70))

    drawn = [differences(first, {"second": second}, resamples=300, seed=seed)["second"]["m"] for seed in (1, 2)]

    assert drawn[0].p != drawn[1].p
    assert drawn[0].low != drawn[1].low


def test_scorecards_of_other_images_are_refused():
    first, second = card(m=np.zeros(3)), Scorecard(("a", "b", "c"), {"m": mean_of(np.zeros(3))})

    with pytest.raises(ValueError, match="different images"):
        differences(first, {"second": second}, resamples=100, seed=0)
