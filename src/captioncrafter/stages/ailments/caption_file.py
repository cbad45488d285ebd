"""A file of captions: predictions or references, as JSON lines or COCO's JSON."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from captioncrafter import storage
from captioncrafter.data.caption_files import read_predictions, read_references
from captioncrafter.data.captions import normalise
from captioncrafter.errors import DataError, counted
from captioncrafter.stages.ailments.captions import LINE_ENDS, Captioned, default_limit, examine_captions, listed
from captioncrafter.stages.ailments.documents import keep, may_change
from captioncrafter.stages.ailments.finding import BROKEN, Record

_MEND = 'Correct the file: JSON lines {"image_id": …, "caption": …} or {"image_id": …, "captions": […]}, or COCO\'s.'
_STUTTER = re.compile(r"(\w)\1{7}|\b(\w+)(?:\W+\2\b){3}")
_MANY, _WORDS_OF_AN_ANSWER = 10, 2


def examine_caption_file(record: Record, path: Path) -> None:
    """Whether predictions or references can be scored, and what in them would trip coco-caption."""
    try:
        captions = _read(record, path)
    except (DataError, *BROKEN) as error:
        record.error("caption-file", path, str(error).removeprefix(f"{path}: ").removeprefix(f"{path}, "), _MEND)
        return
    record.facts["images"] = len(captions)
    record.facts["captions"] = sum(map(len, captions.values()))
    rows = {"test": [Captioned(image, texts) for image, texts in captions.items()]}
    if record.facts["holds"] == "references":
        examine_captions(record, path, rows, limit=default_limit())
    else:
        _examine_predictions(record, path, {image: text for image, (text,) in captions.items()})
    _offer_repair(record, path)


def _read(record: Record, path: Path) -> dict[str, list[str]]:
    """Predictions, where each row has one `caption` and each image one row; else references."""
    try:
        found = {image: [text] for image, text in read_predictions(path).items()}
        record.facts["holds"] = "predictions"
    except DataError:
        found = read_references(path)
        record.facts["holds"] = "references"
    return found


def examine_predictions_of(record: Record, path: Path) -> None:
    """What a run wrote of its images, where it did; it is the run's, so that nothing is mended here."""
    if not path.is_file():
        return
    try:
        captions = read_predictions(path)
    except (DataError, *BROKEN) as error:
        told = str(error).removeprefix(f"{path}: ").removeprefix(f"{path}, ")
        record.error("caption-file", path, told, "Write it again: captioncrafter evaluate --run RUN")
        return
    _examine_predictions(record, path, captions)


def _examine_predictions(record: Record, path: Path, captions: Mapping[str, str]) -> None:
    empty = [image for image, text in captions.items() if not text.strip()]
    if empty:
        record.warning(
            "empty-captions",
            path,
            f"{counted(len(empty), 'prediction is', 'predictions are')} empty",
            "Caption these images.",
            details=tuple(empty),
        )
    odd = [image for image, text in captions.items() if any(sign in text for sign in LINE_ENDS)]
    if odd:
        record.warning(
            "line-separators",
            path,
            f"{counted(len(odd), 'prediction holds', 'predictions hold')} a line separator: coco-caption would score "
            "every later one against the wrong image. Here they are spaces",
            "Replace them by spaces before another program scores them.",
            details=tuple(odd),
        )
    _examine_sense(record, path, captions)


def _examine_sense(record: Record, path: Path, captions: Mapping[str, str]) -> None:
    """Captions that no image is needed for, and those of a model whose numbers broke."""
    stuttering = [f"{image}: {text}" for image, text in captions.items() if _STUTTER.search(text)]
    if stuttering:
        record.warning(
            "stutter",
            path,
            f"one word or sign over and over in {len(stuttering)} of {counted(len(captions), 'prediction')}",
            "T5 in float16 writes so (LAVIS#206): caption in bfloat16 or float32. Otherwise it is trained too little, "
            "or too long; decoding.repetition_penalty hides it.",
            details=listed(stuttering),
        )
    counts = Counter(map(normalise, captions.values()))
    text, times = max(counts.items(), key=lambda one: one[1], default=("", 0))
    if times >= _MANY and times > len(captions) / 2 and len(text.split()) > _WORDS_OF_AN_ANSWER:
        record.warning(
            "one-for-many",
            path,
            f'{times} of {len(captions)} images have the same caption, "{text}": whoever wrote it hardly looked',
            "See that the image reaches the model: `captioncrafter doctor` of its base and adapter says more.",
        )


def _offer_repair(record: Record, path: Path) -> None:
    """Line separators become spaces: that is what they stand for, and the old file is kept."""
    if not may_change(path):
        return
    for number, finding in enumerate(record.findings):
        if finding.ailment == "line-separators" and finding.repair is None:
            record.findings[number] = replace(finding, repair=_spaces(path))


def _spaces(path: Path) -> Callable[[], str]:
    def repair() -> str:
        text = path.read_text(encoding="utf-8-sig")
        kept = keep(path)
        storage.write_text(path, _without_line_ends(text))
        return f"line separators inside captions are spaces now{kept}"

    return repair


def _without_line_ends(text: str) -> str:
    """Signs that JSON allows inside a string as they are, and those that it spells with a backslash."""
    for sign in LINE_ENDS:
        if sign not in "\n\r":
            text = text.replace(sign, " ")
        escaped = {"\n": "\\n", "\r": "\\r", "\x0c": "\\f"}.get(sign)
        spellings = {f"\\u{ord(sign):04x}", f"\\u{ord(sign):04X}", *([escaped] if escaped else [])}
        for spelling in spellings:
            text = _replaced(text, spelling)
    return text


def _replaced(text: str, spelling: str) -> str:
    """Replaces an escape, but not one whose backslash is itself escaped."""
    parts = text.split("\\\\")
    return "\\\\".join(part.replace(spelling, " ") for part in parts)
