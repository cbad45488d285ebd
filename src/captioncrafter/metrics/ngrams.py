"""N-grams of a tokenized caption: what BLEU and CIDEr both start from."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain

MAX_ORDER = 4

NGram = tuple[str, ...]


def ngrams_of(caption: str) -> Iterator[NGram]:
    """The n-grams of orders 1 to 4 of a tokenized caption, as often as they stand in it, the shorter ones first."""
    words = caption.split()
    shifted = [words[start:] for start in range(MAX_ORDER)]
    return chain.from_iterable(zip(*shifted[:order], strict=False) for order in range(1, MAX_ORDER + 1))


def count_ngrams(caption: str) -> Counter[NGram]:
    """How often each n-gram stands in a tokenized caption."""
    return Counter(ngrams_of(caption))
