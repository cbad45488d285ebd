"""ROUGE-L (Lin, 2004) with beta 1.2, as coco-caption's rouge computes it: best precision and best recall apart."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from captioncrafter.metrics.references import References

BETA = 1.2


def rouge_l(predictions: Sequence[str], references: References) -> Float[np.ndarray, " image"]:
    """ROUGE-L of each image as a fraction; the corpus value is their mean.

    `predictions` are tokenized, in the order of `references.image_ids`. An empty caption counts as one empty word.
    """
    pairs = zip(references.image_ids, predictions, strict=True)
    return np.array([_score(prediction.split(" "), references.tokens[image]) for image, prediction in pairs])


def _score(prediction: list[str], references: Sequence[str]) -> float:
    split = [reference.split(" ") for reference in references]
    common = [common_length(prediction, reference) for reference in split]
    precision = max(length / len(prediction) for length in common)
    recall = max(length / len(reference) for length, reference in zip(common, split, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bit-parallel dynamic programming (Hyyrö, 2004).

    Bit i of `open_places` is 0 once the subsequence grew at word i of `first`.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    everything = (1 << len(first)) - 1
    open_places = everything
    for word in second:
        matches = open_places & places.get(word, 0)
        open_places = (open_places + matches) | (open_places - matches)
    return len(first) - (open_places & everything).bit_count()
