"""The captions of a dataset or a file: empty, over-long, odd, copied from one split into another."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from captioncrafter import recipe
from captioncrafter.data.captions import normalise
from captioncrafter.data.example import SPLITS
from captioncrafter.errors import counted
from captioncrafter.stages.ailments.finding import Record

LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""What a tokenizer that reads a caption a line takes for the end of one (`str.splitlines`)."""

_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>")
_SHOWN = 20
_SHARED_SHARE = 0.2
_FEW_LONG = 0.01


@dataclass(frozen=True)
class Captioned:
    """An image by id, with its captions as they are stored (None where there are none)."""

    image_id: str | None
    captions: Sequence[str | None] | None

    @property
    def name(self) -> str:
        """What a finding calls it."""
        return self.image_id if self.image_id is not None else "(no id)"

    @property
    def texts(self) -> list[str]:
        """The captions that say something."""
        return [text for text in self.captions or () if text and text.strip()]


Splits = Mapping[str, Sequence[Captioned]]
Length = Callable[[str], int]


def words(caption: str) -> int:
    """How many words: at least as many tokens does it have, so one over a limit in words is over it in tokens."""
    return len(normalise(caption).split())


def examine_captions(record: Record, where: object, splits: Splits, *, length: Length = words, limit: int) -> None:
    """All about the captions of every split; `length` counts what training is limited to `limit` of."""
    _examine_empty(record, where, splits)
    _examine_line_ends(record, where, splits)
    _examine_markup(record, where, splits)
    _examine_lengths(record, where, splits, length, limit)
    _examine_number(record, where, splits)
    _examine_repeats(record, where, splits)
    _examine_between(record, where, splits)


def _each(splits: Splits) -> Iterator[tuple[str, Captioned]]:
    for split, images in splits.items():
        for image in images:
            yield split, image


def _texts(splits: Splits, meant: Callable[[str], bool]) -> list[str]:
    """Where the captions stand that are `meant`, with their words."""
    return [f"{split}: {image.name}: {text!r}" for split, image in _each(splits) for text in image.texts if meant(text)]


def listed(names: Sequence[str]) -> tuple[str, ...]:
    """Some names as details: the first, and how many more there are."""
    more = (f"… and {len(names) - _SHOWN} more",) if len(names) > _SHOWN else ()
    return (*names[:_SHOWN], *more)


def _examine_empty(record: Record, where: object, splits: Splits) -> None:
    without = [f"{split}: {image.name}" for split, image in _each(splits) if not image.texts]
    if without:
        record.error(
            "no-captions",
            where,
            f"{counted(len(without), 'image has', 'images have')} no caption at all",
            "Give them captions or leave them out: nothing can be learned of them or scored.",
            details=listed(without),
        )
    some = [
        f"{split}: {image.name}"
        for split, image in _each(splits)
        if image.texts and len(image.texts) < len(image.captions or ())
    ]
    if some:
        record.error(
            "empty-captions",
            where,
            f"{counted(len(some), 'image has', 'images have')} an empty caption among others",
            "Take the empty ones out (`captioncrafter prepare` does): as references they spoil every score.",
            details=listed(some),
        )
    wordless = _texts(splits, lambda text: not normalise(text))
    if wordless:
        record.warning(
            "wordless-captions",
            where,
            f"{counted(len(wordless), 'caption is', 'captions are')} nothing but punctuation; training leaves them out",
            "Take them out, or put words in their place.",
            details=listed(wordless),
        )


def _examine_line_ends(record: Record, where: object, splits: Splits) -> None:
    found = _texts(splits, lambda text: any(sign in text for sign in LINE_ENDS))
    if found:
        record.warning(
            "line-separators",
            where,
            f"{counted(len(found), 'caption holds', 'captions hold')} a line separator (a line feed, U+2028 or its "
            "like): coco-caption's tokenizer gives a line too many there and scores every later caption against the "
            "wrong one. Here they are spaces",
            "Replace them by spaces before another program scores with them.",
            details=listed(found),
        )


def _examine_markup(record: Record, where: object, splits: Splits) -> None:
    found = _texts(splits, lambda text: _MARKUP.search(text) is not None)
    if found:
        record.warning(
            "markup",
            where,
            f"{counted(len(found), 'caption holds', 'captions hold')} something in angle brackets: HTML would be "
            "learned, and a tokenizer reads the likes of </s> and <image> as signs of its own",
            "Take it out. Reports show it as it stands and never as HTML.",
            details=listed(found),
        )


def _examine_lengths(record: Record, where: object, splits: Splits, length: Length, limit: int) -> None:
    unit = "words" if length is words else "tokens"
    training = splits.get("train", ())
    texts = [(image.name, text) for image in training for text in image.texts]
    long = [f"{name}: {text}" for name, text in texts if length(text) > limit]
    if not long:
        return
    tell = record.warning if len(long) > _FEW_LONG * len(texts) else record.note
    tell(
        "long-captions",
        where,
        f"more than {limit} {unit} in {len(long)} of {counted(len(texts), 'training caption')}: their ends are not "
        "learned",
        "Raise training.max_caption_tokens (and decoding.max_new_tokens), or shorten them.",
        details=listed(long),
    )


def _examine_number(record: Record, where: object, splits: Splits) -> None:
    """References: scores against one are no published ones; training: one of five captions is a fifth of the data."""
    most = max((len(image.texts) for _, image in _each(splits)), default=0)
    for split, images in splits.items():
        single = sum(len(image.texts) == 1 for image in images)
        if not images or single < len(images):
            continue
        if most > 1:
            record.warning(
                "one-caption",
                where,
                f"{split}: one caption for each image, where others have {most}",
                "Bring all captions of each image in: published scores are against all, and training learns from all.",
            )
        elif split != "train":
            record.note(
                "one-caption", where, f"{split}: one reference for each image; scores compare with none against five"
            )


def _examine_repeats(record: Record, where: object, splits: Splits) -> None:
    twice = [
        f"{split}: {image.name}"
        for split, image in _each(splits)
        if len(set(map(normalise, image.texts))) < len(image.texts)
    ]
    if twice:
        record.note(
            "repeated-captions",
            where,
            f"{counted(len(twice), 'image has', 'images have')} the same caption twice",
            details=listed(twice),
        )


def _examine_between(record: Record, where: object, splits: Splits) -> None:
    """The same captions in two splits: one may be chance; with all of an image, the image itself stands twice."""
    told: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for split, image in _each(splits):
        if len(image.texts) > 1:
            told[tuple(sorted(map(normalise, image.texts)))].append((split, image.name))
    copies = [group for group in told.values() if len({split for split, _ in group}) > 1]
    if copies:
        record.error(
            "captions-in-two-splits",
            where,
            f"{counted(len(copies), 'image has its', 'images have their')} captions again, all of them, in another "
            "split: the same image, maybe stored anew",
            "Take them out of training: what is learned would be tested.",
            details=listed([", ".join(f"{split}: {name}" for split, name in group) for group in copies]),
        )
    trained = {normalise(text) for image in splits.get("train", ()) for text in image.texts}
    for split in SPLITS[1:]:
        texts = Counter(normalise(text) for image in splits.get(split, ()) for text in image.texts)
        shared = sum(count for text, count in texts.items() if text in trained)
        if not shared:
            continue
        what = f"{split}: {shared} of {texts.total()} captions are also captions of training images"
        if shared > _SHARED_SHARE * texts.total() and not copies:
            record.warning("shared-captions", where, what, "Look whether the splits were made over caption rows.")
        else:
            record.note("shared-captions", where, what)


def default_limit() -> int:
    """Tokens of a caption that training keeps, unless a recipe says otherwise."""
    return recipe.Training().max_caption_tokens
