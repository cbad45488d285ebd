"""Kendall's rank correlations, by hand and by counting every pair."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioncrafter.metrics.agreement import kendall_tau_b, kendall_tau_c


def test_two_classes_in_perfect_order_are_worth_one_by_tau_c_alone():
    # Of six pairs four agree and two are tied by rating: b is 4 / √(6 · 4), c is 2 · 4 · 2 / (16 · 1).
    scores, ratings = np.array([1.0, 2, 3, 4]), np.array([1, 1, 2, 2])

    assert kendall_tau_b(scores, ratings) == pytest.approx(4 / math.sqrt(24))
    assert kendall_tau_c(scores, ratings) == 1


def test_without_ties_both_are_the_share_of_agreeing_pairs_less_that_of_others():
    # (1, 2) and (1, 3) agree, (3, 2) does not.
    scores, ratings = np.array([1.0, 3, 2]), np.array([1, 2, 3])

    assert kendall_tau_b(scores, ratings) == pytest.approx(1 / 3)
    assert kendall_tau_c(scores, ratings) == pytest.approx(1 / 3)


def test_opposite_orders_are_worth_minus_one():
    scores, ratings = np.array([3.0, 2, 1]), np.array([1, 2, 3])

    assert kendall_tau_b(scores, ratings) == -1
    assert kendall_tau_c(scores, ratings) == -1


def test_ties_on_both_sides_are_counted_by_hand():
    # Pairs: (0,1) tied by both; (0,2), (1,2) tied by score; (0,3), (1,3) agree; (2,3) disagrees.
    # Agreeing less others: 1. Untied: scores 6 - 3, ratings 6 - 1. Two classes of scores.
    scores, ratings = np.array([1, 1, 1, 2]), np.array([1, 1, 3, 2])

    assert kendall_tau_b(scores, ratings) == pytest.approx(1 / math.sqrt(3 * 5))
    assert kendall_tau_c(scores, ratings) == pytest.approx(2 * 1 * 2 / (16 * 1))


@pytest.mark.parametrize("tau", [kendall_tau_b, kendall_tau_c])
def test_a_side_that_is_all_the_same_has_no_order(tau):
    assert math.isnan(tau(np.array([1.0, 1.0]), np.array([1, 2])))
    assert math.isnan(tau(np.array([1.0, 2.0]), np.array([3, 3])))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=40))
def test_every_pair_is_counted(items: list[tuple[int, int]]):
    scores, ratings = np.array([one for one, _ in items], dtype=float), np.array([other for _, other in items])
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in itertools.combinations(items, 2)]
    agreeing = sum(one * other for one, other in signs)
    untied = sum(one != 0 for one, _ in signs) * sum(other != 0 for _, other in signs)

    tau = kendall_tau_b(scores, ratings)

    assert math.isnan(tau) if untied == 0 else tau == pytest.approx(agreeing / math.sqrt(untied))
