"""People's judgements of Flickr8k captions (Hodosh et al., 2013), from the files that its authors published."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioncrafter.errors import DataError

EXPERT = "ExpertAnnotations.txt"
CROWDFLOWER = "CrowdFlowerAnnotations.txt"
TOKEN = "Flickr8k.token.txt"
EXPERTS = 3


@dataclass(frozen=True)
class Judged:
    """A caption that people judged as one of an image; `ratings` are theirs, higher is better."""

    image: str
    caption: str
    ratings: tuple[float, ...]


@dataclass(frozen=True)
class Judgements:
    """Judged captions with the references of their images; `left_out` counts what could not be judged fairly."""

    judged: Sequence[Judged]
    references: Mapping[str, tuple[str, ...]]
    left_out: int

    def describe(self) -> dict[str, int]:
        """How much there is."""
        return {
            "images": len(self.references),
            "captions": len(self.judged),
            "judgements": sum(len(one.ratings) for one in self.judged),
            "captions_left_out": self.left_out,
        }


def read_expert(folder: Path) -> Judgements:
    """Flickr8k-Expert: three experts' scores from 1 to 4. Captions that are a reference of their image are left out.

    So does CLIPScore's published code, after SPICE's.
    """
    captions, people = _read_captions(folder)
    rows = []
    for place, image, caption, scores in _rows(folder / EXPERT, captions, people):
        if len(scores) != EXPERTS or any(score not in (1, 2, 3, 4) for score in scores):
            raise DataError(f"{place}: expected image, caption id and three scores from 1 to 4.")
        rows.append(Judged(image, caption, scores))
    judged = [row for row in rows if row.caption not in people[row.image]]
    return _judgements(folder / EXPERT, judged, people, left_out=len(rows) - len(judged))


def read_crowdflower(folder: Path) -> Judgements:
    """Flickr8k-CF: the share of people who said that the caption describes the image.

    A judged caption does not stand among the references of its image, for no candidate of that image: so it is in
    CLIPScore's published code. Where that leaves no reference, the image is left out.
    """
    captions, people = _read_captions(folder)
    rows = []
    for place, image, caption, numbers in _rows(folder / CROWDFLOWER, captions, people):
        if len(numbers) != 3 or not 0 <= numbers[0] <= 1:
            raise DataError(f"{place}: expected image, caption id, share of yes (0 to 1), number of yes, number of no.")
        rows.append(Judged(image, caption, numbers[:1]))
    candidates = defaultdict(set)
    for row in rows:
        candidates[row.image].add(row.caption)
    others = {image: tuple(text for text in texts if text not in candidates[image]) for image, texts in people.items()}
    judged = [row for row in rows if others[row.image]]
    return _judgements(folder / CROWDFLOWER, judged, others, left_out=len(rows) - len(judged))


def _judgements(
    file: Path, judged: Sequence[Judged], references: Mapping[str, tuple[str, ...]], *, left_out: int
) -> Judgements:
    if not judged:
        raise DataError(f"{file}: holds no judgement to compare with.")
    images = dict.fromkeys(row.image for row in judged)
    return Judgements(judged, {image: references[image] for image in images}, left_out)


def _read_captions(folder: Path) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The text of each caption id, and the captions of each image."""
    captions = {}
    people: dict[str, list[str]] = defaultdict(list)
    for number, line in _lines(folder / TOKEN):
        name, tab, text = line.partition("\t")
        image, mark, _ = name.partition("#")
        if not tab or not mark:
            raise DataError(f"{folder / TOKEN}, line {number}: expected image#number, a tab and the caption.")
        captions[name] = text.strip()
        people[image].append(text.strip())
    return captions, {image: tuple(texts) for image, texts in people.items()}


def _rows(
    file: Path, captions: Mapping[str, str], people: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, str, tuple[float, ...]]]:
    """Each row of annotations: its place in words, image, caption and numbers."""
    for number, line in _lines(file):
        place = f"{file}, line {number}"
        image, caption, *rest = line.split("\t") if line.count("\t") > 1 else ("", "")
        try:
            numbers = tuple(map(float, rest))
        except ValueError:
            numbers = ()
        if not numbers:
            raise DataError(f"{place}: expected an image, a caption id and numbers, parted by tabs.")
        if image not in people or caption not in captions:
            unknown = image if image not in people else caption
            raise DataError(f"{place}: {TOKEN} has no {unknown}.")
        yield place, image, captions[caption], numbers


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{file}: no such file. --annotations takes the folder of Flickr8k's text files ({TOKEN}, {EXPERT}, "
            f"{CROWDFLOWER}), which its authors give to researchers."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error}).") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")
