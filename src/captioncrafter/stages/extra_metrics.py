"""Metrics beyond coco-caption's that load only when asked for: CLIPScore by a CLIP, SPICE by the user's jar.

One that cannot be had is an error; nothing stands in for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from captioncrafter import events, recipe
from captioncrafter.data.pictures import Picture
from captioncrafter.errors import InputError
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import Scorecard
from captioncrafter.metrics.spice import Spice


@dataclass(frozen=True)
class ExtraMetric:
    """`score` gives its `metrics` of predictions; `described` is what `scores.json` says of who scores."""

    name: str
    metrics: tuple[str, ...]
    described: Mapping[str, Any]
    score: Callable[[Mapping[str, str]], Scorecard]


def extra_metrics(
    options: recipe.Evaluation, references: References, pictures: Mapping[str, Picture] | None, *, device: str
) -> Sequence[ExtraMetric]:
    """Those that `options` ask for, loaded, so that what is missing is heard of before any captioning.

    Raises `InputError` when CLIPScore is asked for and there are no `pictures`.
    """
    found = []
    if options.clip_model is not None:
        if pictures is None:
            raise InputError(
                "CLIPScore looks at the images, and references in a file bring none: give --images FOLDER, or a "
                "dataset folder as --references."
            )
        found.append(_clip_score(options.clip_model, options.clip_revision, references, pictures, device))
    if options.spice_jar is not None:
        found.append(_spice(options.spice_jar, references))
    return found


def _clip_score(
    name: str, revision: str | None, references: References, pictures: Mapping[str, Picture], device: str
) -> ExtraMetric:
    # torch takes seconds to import, and files alone are scored without it.
    from captioncrafter.metrics.clip_score import CLIP_METRICS, Clip, ClipScorer
    from captioncrafter.model.hardware import device_for

    clip = Clip.load(name, revision, device_for(device))
    scorer = ClipScorer(clip, references, lambda image: pictures[image].decode())
    events.say(f"CLIPScore and RefCLIPScore: by {name}" + (f" at {clip.revision}" if clip.revision else ""))
    return ExtraMetric("CLIPScore", CLIP_METRICS, clip.describe(), scorer.score)


def _spice(jar: str, references: References) -> ExtraMetric:
    spice = Spice.of(jar)
    told = spice.describe()
    events.say(f"SPICE: by {spice.jar} (sha256 {told['sha256'][:12]}…), in a Java process of its own; takes minutes")
    return ExtraMetric("SPICE", ("SPICE",), told, partial(spice.score, references=references))
