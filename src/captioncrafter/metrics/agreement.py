"""How far two orders agree: Kendall's rank correlation, with which metrics are held against people's judgements.

Both variants differ in what ties cost. Exact: pairs are counted, in whole numbers.
"""

import math

import numpy as np
from jaxtyping import Float, Num


def kendall_tau_b(scores: Num[np.ndarray, " item"], ratings: Num[np.ndarray, " item"]) -> float:
    """τ-b (Kendall, 1945): pairs tied on either side leave the denominator; NaN where a side is all the same."""
    pairs = math.comb(len(scores), 2)
    untied = (pairs - _tied(scores)) * (pairs - _tied(ratings))
    return _agreeing(scores, ratings) / math.sqrt(untied) if untied else math.nan


def kendall_tau_c(scores: Num[np.ndarray, " item"], ratings: Num[np.ndarray, " item"]) -> float:
    """τ-c (Stuart, 1953): for sides with unlike numbers of different values; NaN where a side is all the same."""
    classes = min(len(np.unique(scores)), len(np.unique(ratings)))
    if classes < 2:
        return math.nan
    return 2 * _agreeing(scores, ratings) * classes / (len(scores) ** 2 * (classes - 1))


def _agreeing(scores: Num[np.ndarray, " item"], ratings: Num[np.ndarray, " item"]) -> int:
    """Pairs in the same order on both sides, less those in opposite orders.

    Goes through the ratings' levels from below, so it is fast where they are few, as people's are.
    """
    levels, level_of = np.unique(ratings, return_inverse=True)
    lower: Float[np.ndarray, " item"] = np.empty(0)
    found = 0
    for level in range(len(levels)):
        here = scores[level_of == level]
        found += int(np.searchsorted(lower, here, "left").sum())
        found -= int((len(lower) - np.searchsorted(lower, here, "right")).sum())
        lower = np.sort(np.concatenate([lower, here]))
    return found


def _tied(values: Num[np.ndarray, " item"]) -> int:
    """Pairs of equal values."""
    return sum(math.comb(int(count), 2) for count in np.unique(values, return_counts=True)[1])
