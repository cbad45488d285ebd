"""METEOR 1.5 (Denkowski and Lavie, 2014): matches and chunks by the reference jar, their combination also here.

The jar aligns; a corpus value is a function of the images' summed statistics. That function is repeated here in
NumPy for the bootstrap, and tested against the jar's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from captioncrafter.errors import ScorerError, counted
from captioncrafter.metrics import java
from captioncrafter.metrics.references import References

_CHUNKS = 20
_STAGES = 4
# METEOR 1.5's parameters for English, task "rank" (alpha, beta, gamma, delta), and the weights of its four matchers:
# exact, stem, synonym, paraphrase.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])


@dataclass(frozen=True)
class MeteorResult:
    """What the jar said: the corpus score, each image's score and each image's statistics."""

    corpus: float
    per_image: Float[np.ndarray, " image"]
    statistics: Float[np.ndarray, "image statistic"]


def meteor(
    predictions: Sequence[str], references: References, scorer: java.CaptionScorer | None = None
) -> MeteorResult:
    """METEOR of tokenized `predictions`, in the order of `references.image_ids`, as fractions, exactly the jar's."""
    lines = []
    for image, prediction in zip(references.image_ids, predictions, strict=True):
        # as coco-caption's meteor.py writes the line
        plain = prediction.replace("|||", "").replace("  ", " ")
        lines.append(" ||| ".join((*references.tokens[image], plain)))
    answer = (scorer or java.shared()).ask("METEOR", lines)
    count = len(lines)
    if len(answer) != count + 1:
        raise ScorerError(f"METEOR answered {counted(len(answer), 'line')} for {counted(count, 'caption')}.")
    rows = np.array([[float(word) for word in line.split()] for line in answer[:count]])
    return MeteorResult(float(answer[-1]), rows[:, 0], rows[:, 1:])


def summable(statistics: Float[np.ndarray, "image statistic"]) -> Float[np.ndarray, "image statistic"]:
    """The statistics as the jar adds them up: a caption equal to its reference in one chunk brings no chunk along."""
    stages = statistics[:, 4 : 4 + 4 * _STAGES].reshape(-1, _STAGES, 4).sum(1)
    all_of_it = (stages[:, 0] + stages[:, 2] == statistics[:, 0]) & (stages[:, 1] + stages[:, 3] == statistics[:, 1])
    found = statistics.copy()
    found[all_of_it & (statistics[:, _CHUNKS] == 1), _CHUNKS] = 0
    return found


def meteor_of_sums(statistics: Float[np.ndarray, "row statistic"]) -> Float[np.ndarray, " row"]:
    """METEOR of each row of `summable` statistics, one image's or a sum of many."""
    test_length, reference_length, test_function, reference_function = statistics[:, :4].T
    stages = statistics[:, 4 : 4 + 4 * _STAGES].reshape(-1, _STAGES, 4)
    chunks, test_words, reference_words = statistics[:, _CHUNKS:].T
    content_test, content_reference, function_test, function_reference = np.moveaxis(stages, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = _matched(content_test, function_test) / _weighted(test_length, test_function)
        recall = _matched(content_reference, function_reference) / _weighted(reference_length, reference_function)
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        fragments = chunks / ((test_words + reference_words) / 2)
        score = mean * (1 - _GAMMA * fragments**_BETA)
    return np.maximum(np.nan_to_num(score), 0.0)


def _matched(content: np.ndarray, function: np.ndarray) -> np.ndarray:
    return ((_DELTA * content + (1 - _DELTA) * function) * _STAGE_WEIGHTS).sum(-1)


def _weighted(length: np.ndarray, function_words: np.ndarray) -> np.ndarray:
    return _DELTA * (length - function_words) + (1 - _DELTA) * function_words
