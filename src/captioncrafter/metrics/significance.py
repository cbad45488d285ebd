"""Whether captioners differ by more than the choice of images explains.

The interval of a difference is a paired bootstrap (Koehn, 2004): the same images are drawn for both systems, and both
corpus metrics computed anew. The p-value is of approximate randomisation (Noreen, 1989; Riezler and Maxwell, 2005):
were the two systems one, any image's two captions could as well be exchanged. Both know nothing of chance in training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from captioncrafter.metrics.resamples import Measured, Stacked, bootstrap, middle, portions
from captioncrafter.metrics.scorecard import Scorecard

# Sums in another order differ in their last digits; what is equal but for those counts as equal.
_ROUNDING = 1e-9
# Where no 4-gram is right, coco-caption's guards against division by zero leave a BLEU-4 of up to (1e-15) ** (1 / 4).
_NOTHING = 2e-4
_WORD_BITS = 64


@dataclass(frozen=True)
class Difference:
    """A metric of one system minus the baseline's, as a fraction, with the 95 % interval of that difference.

    `p` is of one test alone, `p_holm` corrected for all tests of the comparison. `wins` are the images on which the
    system scores higher than the baseline, by more than 0.02 points of 100.
    """

    value: float
    low: float
    high: float
    p: float
    p_holm: float
    wins: int
    ties: int
    losses: int


def differences(
    baseline: Scorecard, others: Mapping[str, Scorecard], *, resamples: int, seed: int
) -> dict[str, dict[str, Difference]]:
    """Each metric of each of `others` against the baseline's: as many bootstrap resamples as exchanges of captions.

    All must be of the same images in the same order, and have the baseline's metrics. Holm's correction is over all
    systems and metrics together. Document frequencies for CIDEr are the references', so fixed.
    """
    if any(other.image_ids != baseline.image_ids for other in others.values()):
        raise ValueError("scorecards of different images")
    cards = list(others.values())
    base, *drawn = bootstrap([baseline.metrics, *(card.metrics for card in cards)], resamples=resamples, seed=seed)
    p = p_values(baseline.metrics, [card.metrics for card in cards], exchanges=resamples, seed=seed)
    corrected = iter(holm([one[metric] for one in p for metric in baseline.metrics]))
    return {
        name: {
            metric: _difference(
                baseline.metrics[metric],
                card.metrics[metric],
                middle(resampled[metric] - base[metric]),
                single[metric],
                next(corrected),
            )
            for metric in baseline.metrics
        }
        for (name, card), resampled, single in zip(others.items(), drawn, p, strict=True)
    }


def p_values(
    baseline: Mapping[str, Measured], others: Sequence[Mapping[str, Measured]], *, exchanges: int, seed: int
) -> list[dict[str, float]]:
    """For each of `others`, each metric's two-sided p-value that it and the baseline are one system.

    In every exchange each image's statistics change sides with probability 1/2, the same images for all metrics. The
    value is (as far apart or farther + 1) / (exchanges + 1): it is never 0, and never too small on average. A
    difference of less than 0.02 points of 100 has a p-value of 1.
    """
    mine, theirs = Stacked.of(baseline), [Stacked.of(metrics) for metrics in others]
    none = np.zeros((1, len(mine.columns)))
    observed = [{metric: float(one[0]) for metric, one in _apart(mine, other, none).items()} for other in theirs]
    as_far = [dict.fromkeys(baseline, 0) for _ in others]
    for exchanged in _exchanges(len(mine.columns), exchanges, seed):
        for other, seen, counts in zip(theirs, observed, as_far, strict=True):
            for metric, found in _apart(mine, other, exchanged).items():
                least = seen[metric] - _ROUNDING if seen[metric] > _NOTHING else 0.0
                counts[metric] += int((found >= least).sum())
    return [{metric: (count + 1) / (exchanges + 1) for metric, count in counts.items()} for counts in as_far]


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected so that any below 0.05 among them is wrong with probability 0.05 at most (Holm, 1979).

    The tests may depend on each other in any way.
    """
    corrected = [0.0] * len(p)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = largest
    return corrected


def _difference(
    baseline: Measured, other: Measured, interval: tuple[float, float], p: float, p_holm: float
) -> Difference:
    gains = other.per_image - baseline.per_image
    wins, losses = int((gains > _NOTHING).sum()), int((gains < -_NOTHING).sum())
    return Difference(
        other.value - baseline.value, *interval, p, p_holm, wins=wins, ties=len(gains) - wins - losses, losses=losses
    )


def _apart(
    first: Stacked, second: Stacked, exchanged: Float[np.ndarray, "exchange image"]
) -> dict[str, Float[np.ndarray, " exchange"]]:
    """How far apart each metric of both systems is once the captions of the `exchanged` images changed sides."""
    moved = exchanged @ (second.columns - first.columns)
    ours = first.values(first.columns.sum(0) + moved)
    theirs = second.values(second.columns.sum(0) - moved)
    return {metric: np.abs(ours[metric] - theirs[metric]) for metric in ours}


def _exchanges(images: int, exchanges: int, seed: int) -> Iterator[Float[np.ndarray, "exchange image"]]:
    """1 where an image's captions change sides, some exchanges at a time; each takes whole words of random bits."""
    dice = np.random.default_rng(seed)
    words = -(-images // _WORD_BITS)
    for size in portions(exchanges, images):
        drawn = dice.integers(2**_WORD_BITS, size=(size, words), dtype=np.uint64)
        yield np.unpackbits(drawn.astype("<u8").view(np.uint8), axis=1)[:, :images].astype(np.float64)
