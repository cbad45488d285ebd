"""What a report is about, as plain values, and how it writes numbers. Reads no file and knows no model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from captioncrafter.metrics.scorecard import METRICS

IN_ORDER = (*METRICS, "CLIPScore", "RefCLIPScore", "SPICE", "exact match", "VQA accuracy")
"""All metrics there can be, as pages list them: coco-caption's seven, then those that are taken when asked for."""

HEADLINE = ("CIDEr", "METEOR", "BLEU-4", "ROUGE-L", "BLEU-1")
"""Which metric a page speaks of when it speaks of one: the first of these that was measured."""


@dataclass(frozen=True)
class System:
    """A captioner as the report sees it: its name, a caption for each image, and its scores.

    `scores` is the content of `scores.json`, as much of it as there is; `image_scores` maps image ids to metrics to
    values. All values are fractions, as coco-caption prints them. `training` names what it was trained as, the seed
    apart: systems of one name there are the same recipe trained with another `seed`; `log` holds the rows of its
    `log.jsonl`.
    """

    name: str
    predictions: Mapping[str, str]
    scores: Mapping[str, Any] = field(default_factory=dict)
    image_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    training: str | None = None
    seed: int | None = None
    log: Sequence[Mapping[str, Any]] = ()

    def metric(self, name: str) -> Mapping[str, float]:
        """`value`, `low` and `high` of a metric, as far as they were measured."""
        return self.scores.get("metrics", {}).get(name, {})

    def image_score(self, image_id: str, metric: str) -> float | None:
        """The value of a metric on one image."""
        return self.image_scores.get(image_id, {}).get(metric)


@dataclass(frozen=True)
class Picture:
    """A picture beside those that were scored: its name, JPEG bytes, what systems say of it by their names, its credit.

    The credit is whose it is and on what terms, where the file tells.
    """

    name: str
    thumbnail: bytes
    captions: Mapping[str, str]
    credit: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything a page shows. Whatever is empty is left out of the page.

    `systems` holds the subject first, then what it is compared with: its base, then other runs. `thumbnails` maps
    image ids to JPEG bytes (about 200 pixels a side look best; a page of 1,000 stays near 10 MB), `prompts` to the
    prompt of those images that have one of their own. `pictures` are no part of the data, and have no scores. `recipe`
    and `manifest` hold the subject's files of those names.
    """

    title: str
    summary: str
    systems: Sequence[System]
    references: Mapping[str, Sequence[str]] = field(default_factory=dict)
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> System:
        """The captioner the page is about."""
        return self.systems[0]

    @property
    def base(self) -> System | None:
        """What the subject is measured against, where something is."""
        return self.systems[1] if len(self.systems) > 1 else None

    @property
    def people(self) -> list[str]:
        """A caption by a person for each image, its first reference: as many texts as a system writes."""
        return [texts[0] for texts in self.references.values() if texts]


def measured_metrics(systems: Sequence[System]) -> list[str]:
    """Metrics that some system has a value of, over the set or on single images, in their usual order."""
    found = {name: None for system in systems for name in system.scores.get("metrics", {})}
    found |= {name: None for system in systems for name in scored_per_image(system)}
    return in_order(found)


def scored_per_image(system: System) -> list[str]:
    """Metrics that the system has a value of on at least one image."""
    return in_order({name: None for scores in system.image_scores.values() for name in scores})


def in_order(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics in their usual order, unknown ones last."""
    return sorted(metrics, key=lambda name: IN_ORDER.index(name) if name in IN_ORDER else len(IN_ORDER))


def headline_metric(metrics: Sequence[str]) -> str | None:
    """The metric a sentence speaks of, where it can speak of one only."""
    return next((name for name in HEADLINE if name in metrics), metrics[0] if metrics else None)


def hundredfold(fraction: float) -> str:
    """A score as tables for people show it: times 100, one decimal."""
    return f"{100 * fraction:.1f}"


def share(fraction: float) -> str:
    """A part of a whole, in percent."""
    return f"{100 * fraction:.1f} %"


def number(value: float) -> str:
    """A number as a person writes it: whole ones with thousands separated, others to four digits."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{int(value):,}"
    return f"{value:.4g}"
