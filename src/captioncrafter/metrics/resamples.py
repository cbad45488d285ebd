"""Metrics of images drawn again: what bootstrap and randomisation have in common.

Every metric is a function of statistics summed over images, so that thousands of resamples of all metrics are one
matrix product: how often each image stands in each resample, times the statistics of all metrics side by side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Resamples times images held at a time: 8 MB, however many images there are.
_DRAWN_AT_A_TIME = 1_000_000


@dataclass(frozen=True)
class Measured:
    """One metric: the corpus value, the value of each image, and what a resample's value is a function of.

    `of_sums` takes the `statistics` summed over a resample and the number of its images.
    """

    value: float
    per_image: Float[np.ndarray, " image"]
    statistics: Float[np.ndarray, "image statistic"]
    of_sums: Callable[[Float[np.ndarray, "resample statistic"], int], Float[np.ndarray, " resample"]]


def mean_of(values: Float[np.ndarray, " image"]) -> Measured:
    """A metric whose corpus value is the mean of the images'."""
    return Measured(float(np.mean(values)), values, values[:, None], lambda sums, images: sums[:, 0] / images)


@dataclass(frozen=True)
class Stacked:
    """The statistics of several metrics side by side in `columns`; those that metrics share (BLEU's) stand once."""

    metrics: Mapping[str, Measured]
    columns: Float[np.ndarray, "image column"]
    places: Mapping[str, slice]

    @classmethod
    def of(cls, metrics: Mapping[str, Measured]) -> "Stacked":
        """The statistics of `metrics`, which must be of the same images in the same order."""
        parts: dict[int, Float[np.ndarray, "image statistic"]] = {}
        starts: dict[int, int] = {}
        width = 0
        for measured in metrics.values():
            key = id(measured.statistics)
            if key not in parts:
                parts[key], starts[key] = measured.statistics, width
                width += measured.statistics.shape[1]
        places = {
            name: slice(starts[id(one.statistics)], starts[id(one.statistics)] + one.statistics.shape[1])
            for name, one in metrics.items()
        }
        return cls(metrics, np.concatenate(list(parts.values()), axis=1), places)

    def values(self, sums: Float[np.ndarray, "resample column"]) -> dict[str, Float[np.ndarray, " resample"]]:
        """Each metric of each resample, from its summed columns; a resample has as many images as there are."""
        images = len(self.columns)
        return {name: one.of_sums(sums[:, self.places[name]], images) for name, one in self.metrics.items()}


def bootstrap(
    systems: Sequence[Mapping[str, Measured]], *, resamples: int, seed: int
) -> list[dict[str, Float[np.ndarray, " resample"]]]:
    """For each system, each metric of every resample; the same images are drawn for all systems and metrics.

    The systems must be of the same images in the same order.
    """
    stacks = [Stacked.of(metrics) for metrics in systems]
    values: list[dict[str, list[np.ndarray]]] = [{name: [] for name in metrics} for metrics in systems]
    for counts in _draws(len(stacks[0].columns), resamples, seed):
        for stacked, found in zip(stacks, values, strict=True):
            for name, some in stacked.values(counts @ stacked.columns).items():
                found[name].append(some)
    return [{name: np.concatenate(parts) for name, parts in found.items()} for found in values]


def middle(values: Float[np.ndarray, " resample"]) -> tuple[float, float]:
    """Between which the middle 95 % of `values` lie: the percentile interval of a bootstrap (Efron, 1979)."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def portions(rows: int, images: int) -> Iterator[int]:
    """`rows` in portions small enough that a number for each row and image takes little memory."""
    most = max(1, _DRAWN_AT_A_TIME // images)
    yield from (min(most, rows - start) for start in range(0, rows, most))


def _draws(images: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "resample image"]]:
    """How often each image stands in each resample, some resamples at a time."""
    dice = np.random.default_rng(seed)
    even = np.full(images, 1 / images)
    for size in portions(resamples, images):
        yield dice.multinomial(images, even, size=size).astype(np.float64)
