"""N-grams of a tokenized caption, counted: what BLEU and CIDEr both start from."""

from collections import Counter

MAX_ORDER = 4

NGram = tuple[str, ...]


def count_ngrams(caption: str) -> Counter[NGram]:
    """How often each n-gram of orders 1 to 4 stands in a tokenized caption."""
    words = caption.split()
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, MAX_ORDER + 1)
        for start in range(len(words) - order + 1)
    )
