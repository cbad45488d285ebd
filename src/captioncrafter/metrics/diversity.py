"""What captions are like as texts: how long, how varied, how often the same."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation: for counting what no published metric defines."""
    return _WORD.findall(caption.lower())


def distinct_captions(captions: Collection[str]) -> float:
    """Share of the captions that are different texts; 1 when no two are the same, 0 when there are none."""
    return len(set(captions)) / len(captions) if captions else 0.0


def mean_length(captions: Collection[str]) -> float:
    """Words a caption, as white space parts them."""
    return sum(len(caption.split()) for caption in captions) / len(captions) if captions else 0.0


def distinct_ngrams(captions: Iterable[str], order: int) -> float:
    """distinct-n (Li et al., 2016): different n-grams over all n-grams of all captions, lower case."""
    found = [ngram for caption in captions for ngram in _ngrams(words(caption), order)]
    return len(set(found)) / len(found) if found else 0.0


def vocabulary(captions: Iterable[str]) -> int:
    """Different words in all captions, lower case, without punctuation."""
    return len({word for caption in captions for word in words(caption)})


def novel_captions(captions: Collection[str], known: Iterable[str]) -> float:
    """Share of the captions that are none of `known` (the training captions), by their lower-case words."""
    seen = {tuple(words(caption)) for caption in known}
    return sum(tuple(words(caption)) not in seen for caption in captions) / len(captions) if captions else 0.0


def repeats_a_word(caption: str) -> bool:
    """Whether a word stands twice in a row: "a dog dog"."""
    return _says_again(words(caption), 1)


def repeats_a_phrase(caption: str) -> bool:
    """Whether two words or more are said again: straight away ("a dog a dog"), or three of them anywhere.

    "a man and a man" does neither: people write so.
    """
    spoken = words(caption)
    trigrams = _ngrams(spoken, 3)
    return _says_again(spoken, 2) or len(set(trigrams)) < len(trigrams)


def share_of(captions: Collection[str], holds: Callable[[str], bool]) -> float:
    """Share of the captions of which it holds; 0 when there are none."""
    return sum(map(holds, captions)) / len(captions) if captions else 0.0


def describe(captions: Collection[str]) -> dict[str, float | int]:
    """All of these by name, for `scores.json`."""
    return {
        "mean_length": mean_length(captions),
        "distinct_captions": distinct_captions(captions),
        "distinct_1": distinct_ngrams(captions, 1),
        "distinct_2": distinct_ngrams(captions, 2),
        "vocabulary": vocabulary(captions),
        "repeated_word": share_of(captions, repeats_a_word),
        "repeated_phrase": share_of(captions, repeats_a_phrase),
    }


def _says_again(spoken: Sequence[str], length: int) -> bool:
    """Whether some `length` words are followed by the same words."""
    return any(
        spoken[start : start + length] == spoken[start + length : start + 2 * length] for start in range(len(spoken))
    )


def _ngrams(words: list[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
