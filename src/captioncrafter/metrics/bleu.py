"""BLEU-1 to BLEU-4 (Papineni et al., 2002) with the closest reference length, as coco-caption's bleu_scorer counts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from captioncrafter.metrics.ngrams import MAX_ORDER, count_ngrams
from captioncrafter.metrics.references import References

# coco-caption's guards against division by zero; they show in the last digits.
_SMALL = 1e-9
_TINY = 1e-15


def bleu_statistics(predictions: Sequence[str], references: References) -> Float[np.ndarray, "image statistic"]:
    """For each image: prediction length, closest reference length, n-grams guessed (4), n-grams right (4).

    `predictions` are tokenized, in the order of `references.image_ids`. Corpus BLEU is a function of the rows' sum.
    """
    rows = []
    for image, prediction in zip(references.image_ids, predictions, strict=True):
        length = len(prediction.split())
        closest = min((abs(other - length), other) for other in references.lengths[image])[1]
        most = references.most_ngrams[image]
        right = [0] * MAX_ORDER
        for ngram, count in count_ngrams(prediction).items():
            right[len(ngram) - 1] += min(count, most.get(ngram, 0))
        guessed = [max(0, length - order) for order in range(MAX_ORDER)]
        rows.append([length, closest, *guessed, *right])
    return np.array(rows, dtype=np.float64)


def bleu(statistics: Float[np.ndarray, "... statistic"]) -> Float[np.ndarray, "... 4"]:
    """BLEU-1 to BLEU-4 as fractions, of one image's statistics or of a sum of many."""
    length, closest = statistics[..., 0], statistics[..., 1]
    guessed, right = statistics[..., 2 : 2 + MAX_ORDER], statistics[..., 2 + MAX_ORDER :]
    precisions = np.cumprod((right + _TINY) / (guessed + _SMALL), axis=-1)
    means = precisions ** (1.0 / np.arange(1, MAX_ORDER + 1))
    ratio = (length + _TINY) / (closest + _SMALL)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.maximum(ratio, np.finfo(float).tiny)), 1.0)
    return means * penalty[..., None]
