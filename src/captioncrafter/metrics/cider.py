"""CIDEr-D (Vedantam et al., 2015), which coco-caption prints as CIDEr, as its cider_scorer computes it."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from captioncrafter.metrics.ngrams import MAX_ORDER, count_ngrams
from captioncrafter.metrics.references import References, TfIdf

SIGMA = 6.0
_SCALE = 10.0


def cider_d(predictions: Sequence[str], references: References) -> Float[np.ndarray, " image"]:
    """CIDEr-D of each image as a fraction (10 would be every reference equal); the corpus value is their mean.

    `predictions` are tokenized, in the order of `references.image_ids`.
    """
    scores = []
    for image, prediction in zip(references.image_ids, predictions, strict=True):
        vector = references.vector(count_ngrams(prediction))
        others = references.vectors[image]
        total = sum(_similarity(vector, other) for other in others)
        scores.append(_SCALE * total / MAX_ORDER / len(others))
    return np.array(scores)


def _similarity(prediction: TfIdf, reference: TfIdf) -> float:
    """Clipped cosine similarity summed over the orders, with a Gaussian penalty on the difference in length."""
    products = [0.0] * MAX_ORDER
    theirs = reference.weights
    for ngram, weight in prediction.weights.items():
        other = theirs.get(ngram)
        if other is not None:
            products[len(ngram) - 1] += min(weight, other) * other
    penalty = math.exp(-((prediction.length - reference.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for product, mine, other_norm in zip(products, prediction.norms, reference.norms, strict=True):
        total += product / (mine * other_norm) if mine and other_norm else product
    return total * penalty
