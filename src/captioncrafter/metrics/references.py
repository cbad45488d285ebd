"""The captions people wrote, with everything about them that scores need, worked out once.

A validation during training scores the same references again and again; tokens, n-gram counts and document frequencies
stay, and only the predictions are new.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import xxhash

from captioncrafter.errors import DataError, counted
from captioncrafter.metrics.java import CaptionScorer
from captioncrafter.metrics.ngrams import NGram, count_ngrams
from captioncrafter.metrics.tokenizer import tokenize


class References:
    """Captions by people, some for each image.

    `captions` maps image ids to one or more captions. `document_frequencies` takes those of another set (a larger
    corpus) instead of this set's own, which are coco-caption's. Raises `DataError` for an image without captions.
    """

    _KEPT_AT_MOST = 2
    _kept: ClassVar["OrderedDict[tuple[str, str | None], References]"] = OrderedDict()

    @classmethod
    def kept(
        cls, captions: Mapping[str, Sequence[str]], *, document_frequencies: "References | None" = None
    ) -> "References":
        """The same object for the same content: what one evaluation worked out serves the next in this process.

        The two used last are kept: those of 1,000 images with five captions take some 50 MB.
        """
        fresh = cls(captions, document_frequencies=document_frequencies)
        key = fresh.fingerprint, None if document_frequencies is None else document_frequencies.fingerprint
        found = cls._kept.setdefault(key, fresh)
        cls._kept.move_to_end(key)
        while len(cls._kept) > cls._KEPT_AT_MOST:
            cls._kept.popitem(last=False)
        return found

    def __init__(
        self,
        captions: Mapping[str, Sequence[str]],
        *,
        document_frequencies: "References | None" = None,
        scorer: CaptionScorer | None = None,
    ) -> None:
        self.captions = {image: tuple(texts) for image, texts in captions.items()}
        empty = [image for image, texts in self.captions.items() if not texts]
        if empty or not self.captions:
            raise DataError(
                f"references: {counted(len(empty), 'image has', 'images have')} no caption, {empty[0]} first."
                if empty
                else "no references."
            )
        self._corpus = document_frequencies
        self._scorer = scorer

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The images, in the order they were given."""
        return tuple(self.captions)

    @cached_property
    def fingerprint(self) -> str:
        """What tells one set of references from another: 32 hex digits of its image ids and captions, in order."""
        digest = xxhash.xxh3_128()
        for image, texts in self.captions.items():
            for part in (image, *texts):
                encoded = part.encode()
                digest.update(b"%d:%b" % (len(encoded), encoded))
            digest.update(b"\n")
        return digest.hexdigest()

    @cached_property
    def tokens(self) -> dict[str, tuple[str, ...]]:
        """The captions, tokenized: words joined by spaces."""
        lines = iter(tokenize([text for texts in self.captions.values() for text in texts], self._scorer))
        return {image: tuple(next(lines) for _ in texts) for image, texts in self.captions.items()}

    @cached_property
    def ngrams(self) -> dict[str, tuple[Counter[NGram], ...]]:
        """N-gram counts of each caption."""
        return {image: tuple(map(count_ngrams, texts)) for image, texts in self.tokens.items()}

    @cached_property
    def most_ngrams(self) -> dict[str, dict[NGram, int]]:
        """For each image, the most often each n-gram stands in one of its captions (BLEU's clipping)."""
        found: dict[str, dict[NGram, int]] = {}
        for image, counts in self.ngrams.items():
            most: dict[NGram, int] = {}
            for one in counts:
                for ngram, count in one.items():
                    if count > most.get(ngram, 0):
                        most[ngram] = count
            found[image] = most
        return found

    @cached_property
    def lengths(self) -> dict[str, tuple[int, ...]]:
        """Words of each caption."""
        return {image: tuple(len(text.split()) for text in texts) for image, texts in self.tokens.items()}

    @cached_property
    def own_document_frequencies(self) -> Counter[NGram]:
        """In how many images' captions each n-gram stands."""
        return Counter(ngram for most in self.most_ngrams.values() for ngram in most)

    @property
    def corpus(self) -> "References":
        """The captions whose document frequencies weigh the n-grams: these, unless another corpus was given."""
        return self._corpus or self

    @property
    def corpus_name(self) -> str:
        """Where the document frequencies come from, for the protocol."""
        return (
            "evaluated references"
            if self._corpus is None
            else f"another corpus of {counted(len(self._corpus), 'image')}"
        )
