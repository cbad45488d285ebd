"""What each of a photo's captions counts in training: more where the others say the same."""

from collections.abc import Sequence

import numpy as np

from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import ciders_of

SAME_FOR_ALL = 0.5
"""The part of a caption's weight that does not depend on the others."""


def consensus(captions: Sequence[Sequence[str]]) -> list[list[float]]:
    """A weight for each caption of each photo, 1 on average: partly its CIDEr-D against the photo's other captions.

    Every photo has as many captions, at least two. After Phan et al. (2017).
    """
    photos = [str(photo) for photo in range(len(captions))]
    scores = []
    for number in range(len(captions[0])):
        others = {photo: [*of[:number], *of[number + 1 :]] for photo, of in zip(photos, captions, strict=True)}
        said = {photo: of[number] for photo, of in zip(photos, captions, strict=True)}
        scores.append(ciders_of(said, References(others)))
    agreement = np.stack(scores, axis=1) + 1e-6
    agreement /= agreement.mean(1, keepdims=True)
    return (SAME_FOR_ALL + (1 - SAME_FOR_ALL) * agreement).tolist()
