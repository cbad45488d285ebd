"""All seven metrics by pycocoevalcap and by us, each importing nothing of the other.

`python _scored.py NAME CAPTIONS` scores the predictions and references of a JSON file, in a process whose memory is
measured from outside.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

WARM_EVALUATIONS = 3


def by_pycocoevalcap(
    predictions: dict[str, str], captions: dict[str, list[str]], only: str | None = None
) -> dict[str, float]:
    """Corpus values by name, through pycocoevalcap's own classes."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        references = PTBTokenizer().tokenize(
            {n: [{"caption": text} for text in texts] for n, texts in captions.items()}
        )
        given = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in predictions.items()})
        found = {"CIDEr": float(Cider().compute_score(references, given)[0])}
        if only is None:
            bleu = Bleu(4).compute_score(references, given, verbose=0)[0]
            found |= {f"BLEU-{order + 1}": value for order, value in enumerate(bleu)}
            found["ROUGE-L"] = float(Rouge().compute_score(references, given)[0])
            meteor = Meteor()
            found["METEOR"] = meteor.compute_score(references, given)[0]
            meteor.meteor_p.kill()
            meteor.meteor_p.wait()
    return found


def by_us(predictions: dict[str, str], captions: dict[str, list[str]]) -> None:
    """As a training run's validations do: the same references again and again."""
    from captioncrafter.metrics.references import References
    from captioncrafter.metrics.scorecard import score

    references = References(captions)
    for _ in range(WARM_EVALUATIONS):
        score(predictions, references)


SCORERS = {"pycocoevalcap": by_pycocoevalcap, "ours": by_us}

if __name__ == "__main__":
    SCORERS[sys.argv[1]](*json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
