"""The images of the page: each with what every system and people said of it, and the numbers that put them in order."""

import base64
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioncrafter.metrics.diversity import words
from captioncrafter.report.charts import Role
from captioncrafter.report.content import Picture, ReportData, hundredfold, scored_per_image
from captioncrafter.report.figures import role_of

SHOWN_AT_FIRST = 24
"""Cards that stand in the page itself: what is seen without JavaScript. The others wait in a template."""

_CASES = 3
# A word in the references of more than half of the images says nothing about one of them; with a handful of images
# that could be any word.
_COMMON = 0.5
_FEW_IMAGES = 20
_SPLIT_WORDS = re.compile(r"(\w+(?:['’]\w+)*)")


@dataclass(frozen=True)
class Piece:
    """A part of a caption; `matched` when it is a telling word that a reference has too."""

    text: str
    matched: bool


@dataclass(frozen=True)
class Said:
    """What one system said of an image, and what that scored."""

    system: str
    role: Role
    pieces: Sequence[Piece]
    score: str


@dataclass(frozen=True)
class Card:
    """An image with all its captions; `thumbnail`, a data URI, `prompt`, its own one, and `credit` may be empty."""

    image_id: str
    thumbnail: str
    said: Sequence[Said]
    references: Sequence[str]
    prompt: str = ""
    credit: str = ""

    @property
    def spoken(self) -> str:
        """What the image shows in words, for who cannot see it: what a person wrote of it, else its name."""
        return self.references[0] if self.references else self.image_id


def cards(data: ReportData, metric: str | None) -> list[Card]:
    """A card for each image the subject captioned, in its order; scores are those of `metric`."""
    common = _common_words(data.references)
    return [_card(data, metric, image_id, common) for image_id in data.subject.predictions]


def picture_cards(data: ReportData) -> list[Card]:
    """A card for each picture beside those that were scored."""
    return [_picture_card(data, picture) for picture in data.pictures]


def extremes(data: ReportData, every_card: Sequence[Card], metric: str | None) -> tuple[list[Card], list[Card]]:
    """The cards on which the subject does best and worst by `metric`; none when it has no per-image values."""
    scored = [
        (score, card)
        for card in every_card
        if metric and (score := data.subject.image_score(card.image_id, metric)) is not None
    ]
    ranked = [card for _, card in sorted(scored, key=lambda pair: -pair[0])]
    count = min(_CASES, len(ranked) // 2)
    return ranked[:count], ranked[::-1][:count]


def score_index(data: ReportData) -> dict[str, Any]:
    """The per-image values by which the page sorts: metric, then system, then card; times 100, None where unknown."""
    images = list(data.subject.predictions)
    metrics = scored_per_image(data.subject)
    return {
        "scores": {
            metric: [[_for_sorting(system.image_score(image, metric)) for image in images] for system in data.systems]
            for metric in metrics
        }
    }


def _for_sorting(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else round(100 * score, 2)


def _card(data: ReportData, metric: str | None, image_id: str, common: frozenset[str]) -> Card:
    references = data.references.get(image_id, ())
    telling = frozenset(word for text in references for word in words(text)) - common
    said = [
        Said(
            system.name,
            role_of(place),
            _pieces(system.predictions[image_id], telling.__contains__),
            _shown(system.image_score(image_id, metric) if metric else None),
        )
        for place, system in enumerate(data.systems)
        if image_id in system.predictions
    ]
    return Card(image_id, _data_uri(data.thumbnails.get(image_id)), said, references, data.prompts.get(image_id, ""))


def _picture_card(data: ReportData, picture: Picture) -> Card:
    places = {system.name: place for place, system in enumerate(data.systems)}
    said = [
        # A base that was not scored is no system of the page, and says something all the same.
        Said(name, role_of(places.get(name, 1)), _pieces(text, lambda _: False), "")
        for name, text in picture.captions.items()
    ]
    return Card(picture.name, _data_uri(picture.thumbnail), said, (), credit=picture.credit)


def _common_words(references: Mapping[str, Sequence[str]]) -> frozenset[str]:
    if len(references) < _FEW_IMAGES:
        return frozenset()
    counts = Counter(word for texts in references.values() for word in {word for text in texts for word in words(text)})
    return frozenset(word for word, count in counts.items() if count > _COMMON * len(references))


def _pieces(caption: str, is_telling: Callable[[str], bool]) -> list[Piece]:
    parts = _SPLIT_WORDS.split(caption)
    return [
        Piece(text, matched=place % 2 == 1 and is_telling(text.lower())) for place, text in enumerate(parts) if text
    ]


def _shown(score: float | None) -> str:
    return "" if score is None else hundredfold(score)


def _data_uri(jpeg: bytes | None) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii") if jpeg else ""
