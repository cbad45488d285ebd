"""All seven metrics of 1,000 captions, five references each: pycocoevalcap as everyone calls it, and ours.

The captions are drawn scenes' (terse ones as predictions, full sentences as references), so nothing is downloaded.
Ours are timed as a validation during training meets them: Java running, references used before.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from _outcome import interleaved, parser, ratio, tell
from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.world import draw_scene
from captioncrafter.metrics import java
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import cider_of, score

IMAGES = 1000


def main() -> None:
    """Times the baseline and ours, checks that they say the same, prints the ratios."""
    options = parser(__doc__ or "").parse_args()
    # pycocoevalcap starts whatever `java` the PATH has.
    os.environ["PATH"] = os.pathsep.join([str(Path(java.find_java()).parent), os.environ["PATH"]])
    scenes = [draw_scene(1, "train", number) for number in range(IMAGES)]
    predictions = {str(number): wording.terse(scene)[0] for number, scene in enumerate(scenes)}
    captions = {str(number): wording.house(scene) for number, scene in enumerate(scenes)}
    references = References(captions)
    ours = score(predictions, references)
    theirs = _coco_caption(predictions, captions)
    for metric, value in theirs.items():
        if abs(ours.value(metric) - value) > 1e-9:
            raise SystemExit(f"{metric}: {ours.value(metric)} here, {value} by pycocoevalcap")
    seconds = interleaved(
        {
            "pycocoevalcap, all": lambda: _coco_caption(predictions, captions),
            "ours, all, warm": lambda: score(predictions, references),
            "pycocoevalcap, CIDEr": lambda: _coco_caption(predictions, captions, only="CIDEr"),
            "ours, CIDEr, warm": lambda: cider_of(predictions, references),
        },
        options.rounds,
    )
    ratios = {
        "all_warm": ratio(seconds, "pycocoevalcap, all", "ours, all, warm"),
        "cider_warm": ratio(seconds, "pycocoevalcap, CIDEr", "ours, CIDEr, warm"),
    }
    baseline = "pycocoevalcap 1.2 on the same captions: tokenizer, then the scorers, Java started by each"
    tell("metrics", baseline, ratios, seconds, as_json=options.json)


def _coco_caption(predictions: dict[str, str], captions: dict[str, list[str]], only: str | None = None) -> Any:
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
        found: dict[str, Any] = {"CIDEr": Cider().compute_score(references, given)[0]}
        if only is None:
            bleu = Bleu(4).compute_score(references, given, verbose=0)[0]
            found |= {f"BLEU-{order + 1}": value for order, value in enumerate(bleu)}
            found["ROUGE-L"] = Rouge().compute_score(references, given)[0]
            meteor = Meteor()
            found["METEOR"] = meteor.compute_score(references, given)[0]
            meteor.meteor_p.kill()
            meteor.meteor_p.wait()
    return found


if __name__ == "__main__":
    main()
