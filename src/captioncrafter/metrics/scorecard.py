"""All seven metrics of a set of captions, with what lies behind them: corpus values, 95 % intervals, single images.

The corpus values and those of single images are coco-caption's own. An interval is a percentile bootstrap over images
(Efron, 1979): every resample is scored as a whole from its images' summed statistics, so that BLEU and METEOR stay
corpus metrics. Document frequencies for CIDEr stay those of the full set.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from captioncrafter.errors import DataError, counted
from captioncrafter.metrics.bleu import bleu, bleu_statistics
from captioncrafter.metrics.cider import cider_d
from captioncrafter.metrics.java import CaptionScorer
from captioncrafter.metrics.meteor import meteor, meteor_of_sums, summable
from captioncrafter.metrics.references import References
from captioncrafter.metrics.resamples import Measured, bootstrap, mean_of, middle
from captioncrafter.metrics.rouge import rouge_l
from captioncrafter.metrics.tokenizer import tokenize

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


@dataclass(frozen=True)
class Scorecard:
    """Metrics over `image_ids`, as fractions."""

    image_ids: tuple[str, ...]
    metrics: Mapping[str, Measured]

    def value(self, metric: str) -> float:
        """The corpus value of `metric`."""
        return self.metrics[metric].value

    def beside(self, other: "Scorecard") -> "Scorecard":
        """These metrics and then those of `other`, which must be of the same images in the same order."""
        if other.image_ids != self.image_ids:
            raise ValueError("scorecards of different images")
        return Scorecard(self.image_ids, {**self.metrics, **other.metrics})

    def intervals(self, *, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval of each metric: the same images are drawn for all of them."""
        (drawn,) = bootstrap([self.metrics], resamples=resamples, seed=seed)
        return {name: middle(values) for name, values in drawn.items()}

    def only(self, names: Iterable[str]) -> "Scorecard":
        """The metrics of these names alone, in the order of this scorecard."""
        wanted = set(names)
        return Scorecard(self.image_ids, {name: one for name, one in self.metrics.items() if name in wanted})

    def to_json(self, *, resamples: int, seed: int) -> dict[str, dict[str, float]]:
        """The metrics as `scores.json` holds them: value, low, high."""
        intervals = self.intervals(resamples=resamples, seed=seed)
        return {
            name: {"value": measured.value, "low": intervals[name][0], "high": intervals[name][1]}
            for name, measured in self.metrics.items()
        }

    def rows(self) -> list[dict[str, str | float]]:
        """One row for each image, as `image_scores.jsonl` holds them."""
        return [
            {"image_id": image} | {name: float(measured.per_image[row]) for name, measured in self.metrics.items()}
            for row, image in enumerate(self.image_ids)
        ]


def score(predictions: Mapping[str, str], references: References, scorer: CaptionScorer | None = None) -> Scorecard:
    """All seven metrics of `predictions`, which must be of exactly the images of `references`.

    Raises `DataError` when they are not, `ScorerError` when the Java scorers fail.
    """
    tokens = _tokens(predictions, references, scorer)
    statistics = bleu_statistics(tokens, references)
    corpus, single = bleu(statistics.sum(0)), bleu(statistics)
    metrics: dict[str, Measured] = {}
    for order in range(4):
        metrics[f"BLEU-{order + 1}"] = Measured(
            float(corpus[order]), single[:, order], statistics, lambda sums, _, order=order: bleu(sums)[:, order]
        )
    found = meteor(tokens, references, scorer)
    metrics["METEOR"] = Measured(
        found.corpus, found.per_image, summable(found.statistics), lambda sums, _: meteor_of_sums(sums)
    )
    metrics["ROUGE-L"] = mean_of(rouge_l(tokens, references))
    metrics["CIDEr"] = mean_of(cider_d(tokens, references))
    return Scorecard(references.image_ids, metrics)


def averaged(cards: Sequence[Scorecard]) -> Scorecard:
    """Several models' captions of the same images scored as one system's: an image's statistics are their mean.

    CIDEr and ROUGE-L are then the mean of the models' values; BLEU and METEOR, whose corpus values are no means, those
    of all their captions together. Its intervals tell of the choice of images, not of the choice of models.
    """
    first, *_ = cards
    if any(card.image_ids != first.image_ids for card in cards):
        raise ValueError("scorecards of different images")
    shared: dict[int, np.ndarray] = {}
    metrics: dict[str, Measured] = {}
    for name, one in first.metrics.items():
        alike = [card.metrics[name] for card in cards]
        statistics = shared.setdefault(id(one.statistics), np.mean([each.statistics for each in alike], axis=0))
        value = float(one.of_sums(statistics.sum(0)[None], len(first.image_ids))[0])
        metrics[name] = Measured(value, np.mean([each.per_image for each in alike], axis=0), statistics, one.of_sums)
    return Scorecard(first.image_ids, metrics)


def cider_of(predictions: Mapping[str, str], references: References) -> float:
    """CIDEr-D alone, as a fraction: fast enough for every validation once the references' statistics are there."""
    return float(np.mean(ciders_of(predictions, references)))


def ciders_of(predictions: Mapping[str, str], references: References) -> Float[np.ndarray, " image"]:
    """CIDEr-D of each image, as a fraction, in the order of the references; the corpus value is their mean."""
    return cider_d(_tokens(predictions, references, None), references)


def shuffled(predictions: Mapping[str, str], *, seed: int) -> dict[str, str]:
    """Every caption given to another image: what captions score that do not look.

    The images form one random cycle and each takes the caption of the next, so that none keeps its own; a single
    image has no other and keeps it.
    """
    order = list(predictions)
    random.Random(seed).shuffle(order)
    given = dict(zip(order, (predictions[image] for image in (*order[1:], order[0])), strict=True))
    return {image: given[image] for image in predictions}


def refuse_other_images(predictions: Mapping[str, str], image_ids: Sequence[str]) -> None:
    """Raises `DataError` when `predictions` are not of exactly these images."""
    missing = [image for image in image_ids if image not in predictions]
    extra = len(predictions) - (len(image_ids) - len(missing))
    if missing or extra:
        raise DataError(
            "predictions and references are not of the same images: "
            f"{counted(len(missing), 'image has', 'images have')} no prediction"
            + (f" ({missing[0]} first)" if missing else "")
            + f", {counted(extra, 'prediction has', 'predictions have')} no reference."
        )


def _tokens(predictions: Mapping[str, str], references: References, scorer: CaptionScorer | None) -> list[str]:
    refuse_other_images(predictions, references.image_ids)
    return tokenize([predictions[image] for image in references.image_ids], scorer)
