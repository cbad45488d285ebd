"""The reference that metrics are held to: pycocoevalcap's own classes, called as its `COCOEvalCap` calls them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

Tokens = dict[str, list[str]]


class CocoCaption:
    """Holds METEOR's process, which takes seconds to start; `java` must be on PATH."""

    def __init__(self) -> None:
        from pycocoevalcap.meteor.meteor import Meteor

        self.meteor = Meteor()

    def tokenize(self, captions: Mapping[str, Sequence[str]]) -> Tokens:
        """Each image's captions in tokens."""
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        rows = {image: [{"caption": text} for text in texts] for image, texts in captions.items()}
        return PTBTokenizer().tokenize(rows)

    def score(self, predictions: Tokens, references: Tokens) -> dict[str, tuple[float, np.ndarray]]:
        """The corpus value and the values of single images, by metric."""
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        bleu = zip(*Bleu(4).compute_score(references, predictions, verbose=0), strict=True)
        found = {f"BLEU-{order}": values for order, values in enumerate(bleu, start=1)}
        found["METEOR"] = self.meteor.compute_score(references, predictions)
        found["ROUGE-L"] = Rouge().compute_score(references, predictions)
        found["CIDEr"] = Cider().compute_score(references, predictions)
        return {metric: (float(corpus), np.array(single)) for metric, (corpus, single) in found.items()}


@contextmanager
def coco_caption() -> Iterator[CocoCaption]:
    """A running reference; at the end its process is gone and its pipes are closed."""
    found = CocoCaption()
    try:
        yield found
    finally:
        process = found.meteor.meteor_p
        process.kill()
        process.communicate()
