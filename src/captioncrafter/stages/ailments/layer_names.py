"""Long lists of layer names in few words."""

import re
from collections import Counter
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_TEXT_WAY = re.compile(r"qformer\.encoder\.layer\.\d+\.(intermediate|output)\.")


def part_of(name: str) -> str:
    """The part of the model that a weight or layer belongs to; the halves of a language model apart."""
    words = name.split(".")
    deep = words[0] == "language_model" and words[1:2] in (["encoder"], ["decoder"])
    return ".".join(words[:2]) if deep else words[0]


def by_part(layers: Iterable[str]) -> str:
    """How many layers lie in each part of the model, in words."""
    counts = Counter(map(part_of, layers))
    return ", ".join(f"{count} in {part}" for part, count in counts.items()) or "none"


def condensed(layers: Iterable[str]) -> tuple[str, ...]:
    """Names that differ in their numbers only as one line each, with how many they are, in order of the first."""
    counts = Counter(_NUMBER.sub("*", name) for name in layers)
    return tuple(f"{name} ({count} layers)" if count > 1 else name for name, count in counts.items())


def text_way(layers: Iterable[str]) -> list[str]:
    """Those on the Q-Former's way for text, which no image ever goes: an adapter there stays as it began."""
    return [name for name in layers if _TEXT_WAY.match(name)]
