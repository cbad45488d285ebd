"""What scores alone do not say: whether captions depend on the image, and whether they all sound the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from captioncrafter.metrics.diversity import (
    distinct_captions,
    distinct_ngrams,
    mean_length,
    repeats_a_phrase,
    repeats_a_word,
    share_of,
    vocabulary,
)
from captioncrafter.report.charts import gap_strip
from captioncrafter.report.content import ReportData, System, hundredfold, number, share
from captioncrafter.report.figures import role_of

# The captions of a system that looks at nothing score the same on any image. Between one and this ratio, the images
# matter so little that the scores must not be read as seeing.
_BARELY_GROUNDED = 1.5
# People give different images the same caption about once in a thousand; one caption on a tenth of them is a default.
_COLLAPSED = 0.1
_FEW_IMAGES = 10
# Among a few images a tenth is one or two, which says nothing.
_FEW_TIMES = 3
# People hardly ever say a phrase again in a caption; where their task makes them, it takes more than theirs to tell.
_REPETITIVE = 0.05
_MORE_THAN_PEOPLE = 3
_QUOTED_LETTERS = 120
_NAMED_IMAGES = 3


@dataclass(frozen=True)
class Finding:
    """A sentence about the subject; `alarming` when it puts the scores in doubt."""

    text: str
    alarming: bool


@dataclass(frozen=True)
class GroundingRow:
    """A system's CIDEr on the right images and on shuffled ones."""

    system: str
    real: str
    shuffled: str
    strip: Markup


@dataclass(frozen=True)
class Measure:
    """A property of captions as texts, one value a column."""

    name: str
    values: Sequence[str]


def findings(data: ReportData) -> list[Finding]:
    """What to know about the subject's captions before believing their scores, and what is wrong with the others'."""
    others = [
        Finding(f"{system.name}: {_lowered(found.text)}", alarming=True)
        for system in data.systems[1:]
        for found in _of(system, data.people)
        if found.alarming
    ]
    return _of(data.subject, data.people) + others


def _of(system: System, people: Sequence[str]) -> list[Finding]:
    looked_for = (_in_training, _partial, _grounding, _collapse, _empty)
    found = [found for look in looked_for if (found := look(system))]
    return found + [again for again in [_repetition(system, people)] if again]


def sentences(scores: Mapping[str, Any]) -> list[str]:
    """What `scores.json` alone tells of the captions, as findings do."""
    system = System("", {}, scores)
    return [found.text for look in (_in_training, _partial, _grounding) if (found := look(system))]


def grounding_table(systems: Sequence[System]) -> list[GroundingRow]:
    """CIDEr with the right and with shuffled images, for each system that has both."""
    pairs = [(k, system.name, *pair) for k, system in enumerate(systems) if (pair := _pair(system))]
    top = max((max(real, shuffled) for _, _, real, shuffled in pairs), default=0.0)
    return [
        GroundingRow(name, hundredfold(real), hundredfold(shuffled), gap_strip(real, shuffled, top, role_of(k)))
        for k, name, real, shuffled in pairs
    ]


def caption_measures(data: ReportData) -> list[Measure]:
    """Variety and length of the captions, a column for each system and a last one for people.

    How varied texts are depends on how many there are, so people stand with one caption for each image.
    """
    groups = [list(system.predictions.values()) for system in data.systems]
    columns = [_describe(texts) for texts in ([*groups, data.people] if data.people else groups)]
    rows = [Measure(name, [column[name] for column in columns]) for name in columns[0]]
    return rows + _novelty(data.systems, columns=len(columns))


def _in_training(system: System) -> Finding | None:
    """Whether evaluated images were learned from, where the evaluation looked."""
    told = system.scores.get("seen_in_training")
    if told is None:
        return None
    count, images = told.get("images", 0), system.scores.get("images", len(system.predictions))
    by = f", by their {told['compared_by']}" if "compared_by" in told else ""
    if not count:
        return Finding(f"None of the evaluated images was in training{by}.", alarming=False)
    examples = [str(name) for name in told.get("image_ids", ())][:_NAMED_IMAGES]
    named = f" ({', '.join(map(_shortened, examples))}{', …' if count > len(examples) else ''})" if examples else ""
    were = "image was" if count == 1 else "images were"
    return Finding(
        f"{count:,} of the {images:,} evaluated {were} in training too{by}{named}: the scores tell what was learned by "
        "heart, not how new images fare.",
        alarming=True,
    )


def _partial(system: System) -> Finding | None:
    """Whether images or predictions were left out of the scores."""
    told = system.scores.get("partial")
    if not told:
        return None
    counts = [f"{number(value)} {key.replace('_', ' ')}" for key, value in told.items() if value]
    left_out = f": {', '.join(counts)}" if counts else ""
    return Finding(
        f"The scores are of a part of the images{left_out}. They compare with no scores of the whole.", alarming=True
    )


def _grounding(system: System) -> Finding | None:
    pair = _pair(system)
    if pair is None:
        return None
    real, shuffled = pair
    if real < _BARELY_GROUNDED * shuffled:
        return Finding(
            f"The captions hardly depend on the images: with images shuffled CIDEr is {hundredfold(shuffled)}, "
            f"with the right ones {hundredfold(real)}.",
            alarming=True,
        )
    return Finding(
        f"The captions depend on the images: with images shuffled CIDEr falls from {hundredfold(real)} to "
        f"{hundredfold(shuffled)}.",
        alarming=False,
    )


def _pair(system: System) -> tuple[float, float] | None:
    measured = system.scores.get("grounding", {})
    if "CIDEr" not in measured or "shuffled_CIDEr" not in measured:
        return None
    return measured["CIDEr"], measured["shuffled_CIDEr"]


def _collapse(system: System) -> Finding | None:
    """Whether one caption stands for many images; empty captions are another finding."""
    captions = [text for text in system.predictions.values() if text.strip()]
    if len(captions) < _FEW_IMAGES:
        return None
    (commonest, count), different = Counter(captions).most_common(1)[0], len(set(captions))
    if count >= max(_COLLAPSED * len(captions), _FEW_TIMES):
        return Finding(
            f"The captions have collapsed: {count:,} of {len(captions):,} images get {_quoted(commonest)}.",
            alarming=True,
        )
    return Finding(
        f"{different:,} of {len(captions):,} captions are different texts; the commonest is given {_times(count)}.",
        alarming=False,
    )


def _repetition(system: System, people: Sequence[str]) -> Finding | None:
    """Whether many captions repeat themselves, many more than people's of the same images."""
    captions = list(system.predictions.values())
    if len(captions) < _FEW_IMAGES:
        return None
    said, usual = share_of(captions, repeats_a_phrase), share_of(people, repeats_a_phrase)
    if said < max(_REPETITIVE, _MORE_THAN_PEOPLE * usual):
        return None
    beside = f"; of those by people {share(usual)}" if people else ""
    return Finding(f"{share(said)} of the captions say a phrase again{beside}.", alarming=True)


def _quoted(caption: str) -> str:
    return f"“{_shortened(caption)}”"


def _shortened(text: str) -> str:
    return text if len(text) <= _QUOTED_LETTERS else f"{text[:_QUOTED_LETTERS]} …"


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"


def _empty(system: System) -> Finding | None:
    empty = sum(not text.strip() for text in system.predictions.values())
    if not empty:
        return None
    return Finding(f"{empty:,} captions are empty." if empty > 1 else "One caption is empty.", alarming=True)


def _describe(captions: Sequence[str]) -> Mapping[str, str]:
    count = max(len(captions), 1)
    return {
        "different captions": share(distinct_captions(captions)),
        "images with the commonest caption": share(max(Counter(captions).values(), default=0) / count),
        "mean words in a caption": f"{mean_length(captions):.1f}",
        "vocabulary, words": f"{vocabulary(captions):,}",
        "distinct-1: different words of all": share(distinct_ngrams(captions, 1)),
        "distinct-2: different word pairs of all": share(distinct_ngrams(captions, 2)),
        "captions with a word twice in a row": share(share_of(captions, repeats_a_word)),
        "captions that say a phrase again": share(share_of(captions, repeats_a_phrase)),
    }


def _novelty(systems: Sequence[System], *, columns: int) -> list[Measure]:
    """The share of captions that training never showed, where it was measured."""
    shares = [system.scores.get("diversity", {}).get("novel_captions") for system in systems]
    if all(one is None for one in shares):
        return []
    spoken = ["" if one is None else share(one) for one in shares]
    return [Measure("captions never seen in training", spoken + [""] * (columns - len(spoken)))]
