"""Whether the subject differs from what stands beside it: tests over the same images, from what is on disk.

Single images' values are enough for a metric whose corpus value is their mean (CIDEr, ROUGE-L, CLIPScore, SPICE, the
metrics of answers). BLEU and METEOR are functions of summed counts: `captioncrafter compare` tests those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captioncrafter.metrics.scorecard import Scorecard, mean_of
from captioncrafter.metrics.significance import Difference, differences, holm
from captioncrafter.recipe import Evaluation
from captioncrafter.report.content import System, hundredfold, in_order, scored_per_image

_SURE_BELOW = 0.05
_SMALLEST_TOLD = 0.001
# scores.json holds all digits of a value; a mean summed in another order differs in the last of them only.
_ROUNDING = 1e-9
_FEWEST_IMAGES = 2


@dataclass(frozen=True)
class Against:
    """The subject's metric minus that of the system at `place` among all, with its interval and corrected p-value.

    Differences are fractions; `up` and `down` count the images on which the subject is higher and lower.
    """

    metric: str
    place: int
    value: float
    low: float
    high: float
    p: float
    up: int
    down: int

    @property
    def sure(self) -> bool:
        """Whether chance in the choice of images hardly explains it."""
        return self.p < _SURE_BELOW

    @property
    def difference(self) -> str:
        """The difference times 100, with its sign."""
        return _signed(self.value)

    @property
    def interval(self) -> str:
        """The interval of the difference times 100."""
        return f"{_signed(self.low)} to {_signed(self.high)}"

    @property
    def chance(self) -> str:
        """The p-value, as far as so many exchanges can tell it."""
        return f"p < {_SMALLEST_TOLD}" if self.p < _SMALLEST_TOLD else f"p = {self.p:.3f}"


@dataclass(frozen=True)
class Rival:
    """One of the systems beside the subject: its place among all, and how the subject differs, metric by metric."""

    name: str
    place: int
    found: Sequence[Against | None]


def against(systems: Sequence[System]) -> list[Against]:
    """The subject against each other system, in each metric of both that single images' values suffice to test.

    A metric is left out where its corpus value is not the mean of the images', or an image of the subject's has none.
    Resamples and seed are those of the evaluation; Holm's correction is over everything tested here.
    """
    subject, *others = systems
    images = tuple(subject.predictions)
    if len(images) < _FEWEST_IMAGES:
        return []
    mine = _means(subject, images)
    usual, scorer = Evaluation(), subject.scores.get("scorer", {})
    draws = {
        "resamples": scorer.get("bootstrap_resamples", usual.resamples),
        "seed": scorer.get("bootstrap_seed", usual.seed),
    }
    tested: list[tuple[str, int, Difference]] = []
    for place, other in enumerate(others, start=1):
        theirs = _means(other, images)
        if shared := [metric for metric in mine if metric in theirs]:
            found = differences(_card(images, mine, shared), {"": _card(images, theirs, shared)}, **draws)
            tested += [(metric, place, one) for metric, one in found[""].items()]
    corrected = holm([one.p for _, _, one in tested])
    return [_turned(*one, p) for one, p in zip(tested, corrected, strict=True)]


def by_system(systems: Sequence[System], tested: Sequence[Against]) -> tuple[list[str], list[Rival]]:
    """What was tested as a table: the metrics in their usual order, and a row for each system beside the subject."""
    metrics = in_order({one.metric: None for one in tested})
    cells = {(one.place, one.metric): one for one in tested}
    places = sorted({one.place for one in tested})
    return metrics, [
        Rival(systems[place].name, place, [cells.get((place, metric)) for metric in metrics]) for place in places
    ]


def _means(system: System, images: Sequence[str]) -> Mapping[str, list[float]]:
    """The values on all `images` of each metric that is their mean."""
    columns = {metric: [system.image_score(image, metric) for image in images] for metric in scored_per_image(system)}
    whole = {metric: [one for one in values if one is not None] for metric, values in columns.items()}
    return {
        metric: values
        for metric, values in whole.items()
        if len(values) == len(images)
        and "value" in system.metric(metric)
        and abs(sum(values) / len(values) - system.metric(metric)["value"]) < _ROUNDING
    }


def _card(images: tuple[str, ...], values: Mapping[str, list[float]], metrics: Sequence[str]) -> Scorecard:
    return Scorecard(images, {metric: mean_of(np.array(values[metric])) for metric in metrics})


def _turned(metric: str, place: int, found: Difference, p: float) -> Against:
    """What was measured of the other against the subject, told of the subject."""
    return Against(metric, place, -found.value, -found.high, -found.low, p, up=found.losses, down=found.wins)


def _signed(fraction: float) -> str:
    text = hundredfold(fraction)
    return "0.0" if float(text) == 0 else text.replace("-", "−") if fraction < 0 else f"+{text}"
