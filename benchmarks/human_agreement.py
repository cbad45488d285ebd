"""How far each metric orders captions as people do: Kendall's τ with Flickr8k-Expert (c) and with CrowdFlower (b).

Needs the annotation files of Flickr8k's authors. The protocol is that of CLIPScore's published code (see
docs/metrics.md), but for CIDEr's document frequencies, to which each image counts once here.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from _judgements import CROWDFLOWER, EXPERT, TOKEN, Judgements, read_crowdflower, read_expert
from _outcome import parser, signed
from captioncrafter import recipe
from captioncrafter.data.pictures import pictures_in
from captioncrafter.errors import CaptionCrafterError, DataError
from captioncrafter.metrics.agreement import kendall_tau_b, kendall_tau_c
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import Scorecard, score
from captioncrafter.stages.extra_metrics import extra_metrics

_Scorer = Callable[[Mapping[str, str]], Scorecard]


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the annotations, scores every judged caption, prints τ for each metric."""
    options = parser(__doc__ or "", rounds=False)
    options.add_argument(
        "--annotations", type=Path, required=True, help=f"folder with {TOKEN}, {EXPERT}, {CROWDFLOWER}"
    )
    options.add_argument("--images", type=Path, help="folder of the photos, for CLIPScore")
    options.add_argument("--clip-model", help="also CLIPScore and RefCLIPScore, by this CLIP")
    options.add_argument("--clip-revision", help="commit of that CLIP on the hub")
    options.add_argument("--spice-jar", help="also SPICE, by this jar (hours)")
    given = options.parse_args(arguments)
    extras = recipe.Evaluation(
        clip_model=given.clip_model, clip_revision=given.clip_revision, spice_jar=given.spice_jar
    )
    try:
        outcome = agreement(given.annotations, extras, given.images)
    except CaptionCrafterError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(signed(outcome), indent=2) if given.json else _table(outcome))


def agreement(folder: Path, options: recipe.Evaluation, images: Path | None) -> dict[str, object]:
    """τ of each metric with each set of judgements that is in `folder`; None where a metric has no order.

    Raises `DataError` when it holds neither set.
    """
    sets = {
        "expert_tau_c": (EXPERT, read_expert, kendall_tau_c),
        "crowdflower_tau_b": (CROWDFLOWER, read_crowdflower, kendall_tau_b),
    }
    there = {name: one for name, one in sets.items() if (folder / one[0]).is_file()}
    if not there:
        raise DataError(
            f"{folder}: neither {EXPERT} nor {CROWDFLOWER} is there. --annotations takes the folder of Flickr8k's text "
            "files, which its authors give to researchers."
        )
    taus: dict[str, dict[str, float | None]] = defaultdict(dict)
    amounts = {}
    for name, (file, read, tau) in there.items():
        judgements = read(folder)
        amounts[file] = judgements.describe()
        ratings = np.array([rating for one in judgements.judged for rating in one.ratings])
        often = [len(one.ratings) for one in judgements.judged]
        for metric, scores in score_judged(judgements, options, images).items():
            found = tau(np.repeat(scores, often), ratings)
            taus[metric][name] = None if math.isnan(found) else found
    return {
        "benchmark": "human_agreement",
        "baseline": "1 is an order of captions equal to people's, 0 is chance",
        "ratios": {},
        "rows": [{"name": metric, **values} for metric, values in taus.items()],
        "judgements": amounts,
    }


def score_judged(judgements: Judgements, options: recipe.Evaluation, images: Path | None) -> dict[str, np.ndarray]:
    """The value that each metric gives each judged caption, in their order.

    All images take one of their captions at a time, so that what references need is worked out once; an image that
    has none left takes an empty one, whose value nobody reads.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(judgements.judged):
        places[one.image].append(place)
    values: dict[str, np.ndarray] = {}
    scorers = _scorers(References(judgements.references), options, images)
    for turn in range(max(map(len, places.values()))):
        taken = {image: at[turn] for image, at in places.items() if turn < len(at)}
        captions = {
            image: judgements.judged[taken[image]].caption if image in taken else "" for image in judgements.references
        }
        for card in (scorer(captions) for scorer in scorers):
            rows = {image: row for row, image in enumerate(card.image_ids)}
            for metric, measured in card.metrics.items():
                found = values.setdefault(metric, np.full(len(judgements.judged), np.nan))
                for image, place in taken.items():
                    found[place] = measured.per_image[rows[image]]
    return values


def _scorers(references: References, options: recipe.Evaluation, images: Path | None) -> list[_Scorer]:
    pictures = pictures_in(images, references.image_ids, {}) if images is not None else None
    extras = extra_metrics(options, references, pictures, device="auto")
    return [lambda captions: score(captions, references), *(extra.score for extra in extras)]


def _table(outcome: Mapping[str, object]) -> str:
    lines = ["Kendall's τ × 100 with people's judgements"]
    for file, amount in outcome["judgements"].items():  # pyright: ignore[reportAttributeAccessIssue]
        told = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in amount.items())
        lines.append(f"  {file}: {told}")
    lines.append(f"  {'metric':14} {'Expert τ-c':>11} {'CrowdFlower τ-b':>16}")
    for row in outcome["rows"]:  # pyright: ignore[reportGeneralTypeIssues]
        expert, crowd = (_hundredfold(row.get(name)) for name in ("expert_tau_c", "crowdflower_tau_b"))
        lines.append(f"  {row['name']:14} {expert:>11} {crowd:>16}")
    return "\n".join(lines)


def _hundredfold(tau: float | None) -> str:
    return "" if tau is None else f"{100 * tau:.1f}"


if __name__ == "__main__":
    main()
