"""CIDEr-D (Vedantam et al., 2015), which coco-caption prints as CIDEr, as its cider_scorer computes it.

The references' TF-IDF weights are arrays, made once for a `References` object and kept as long as it is; predictions
are counted, weighed and compared with them in NumPy, all at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float, Int

from captioncrafter.metrics.ngrams import MAX_ORDER, NGram, ngrams_of
from captioncrafter.metrics.references import References

SIGMA = 6.0
_SCALE = 10.0


def cider_d(predictions: Sequence[str], references: References) -> Float[np.ndarray, " image"]:
    """CIDEr-D of each image as a fraction (10 would be every reference equal); the corpus value is their mean.

    `predictions` are tokenized, in the order of `references.image_ids`.
    """
    table = _table_of(references)
    given = _weigh(_count(predictions, table.numbers), table.idf, references)
    products = _products(given, table)
    norms = given.norms[table.images] * table.norms
    # A norm is zero where every n-gram of an order weighs nothing: the product is zero then, too.
    cosines = np.divide(products, norms, out=products, where=norms > 0).sum(1)
    apart = given.bigrams[table.images] - table.bigrams
    similarities = cosines * np.exp(-(apart**2) / (2 * SIGMA**2))
    sums, captions = np.bincount(table.images, similarities), np.bincount(table.images)
    return _SCALE / MAX_ORDER * sums / captions


@dataclass(frozen=True)
class _Counts:
    """Captions as counted n-grams. `entry` runs over captions and the different n-grams of each, in their order."""

    captions: int
    caption: Int[np.ndarray, " entry"]
    ngram: Int[np.ndarray, " entry"]
    order: Int[np.ndarray, " entry"]
    count: Int[np.ndarray, " entry"]
    unknown: dict[NGram, int]
    """Numbers of the n-grams that had none, from the first free number on."""


def _count(captions: Sequence[str], numbers: dict[NGram, int]) -> _Counts:
    ngrams = [list(ngrams_of(caption)) for caption in captions]
    flat = [ngram for some in ngrams for ngram in some]
    unknown: dict[NGram, int] = {}
    found = [
        unknown.setdefault(ngram, len(numbers) + len(unknown)) if number is None else number
        for ngram, number in zip(flat, map(numbers.get, flat), strict=True)
    ]
    caption = np.repeat(np.arange(len(captions)), [len(some) for some in ngrams])
    every = len(numbers) + len(unknown)
    keys, first, count = np.unique(
        caption * every + np.array(found, dtype=np.int64), return_index=True, return_counts=True
    )
    order = np.fromiter(map(len, flat), np.int64, len(flat))[first] - 1
    return _Counts(len(captions), caption[first], keys % every if every else keys, order, count, unknown)


@dataclass(frozen=True)
class _Vectors:
    """Captions as CIDEr sees them: the weight of each entry, norms by order, and the length its penalty uses.

    That length counts bigrams, not words: so does coco-caption's `cider_scorer`.
    """

    entries: _Counts
    weight: Float[np.ndarray, " entry"]
    norms: Float[np.ndarray, "caption order"]
    bigrams: Float[np.ndarray, " caption"]


def _weigh(entries: _Counts, idf: Float[np.ndarray, " ngram"], references: References) -> _Vectors:
    """`idf` is that of the n-grams numbered before; the others are looked up here."""
    weight = entries.count * np.concatenate([idf, _idf(entries.unknown, references)])[entries.ngram]
    squares = _sums(weight**2, entries.caption, entries.order, entries.captions)
    bigrams = _sums(entries.count.astype(np.float64), entries.caption, entries.order, entries.captions)[:, 1]
    return _Vectors(entries, weight, np.sqrt(squares), bigrams)


def _idf(ngrams: dict[NGram, int], references: References) -> Float[np.ndarray, " ngram"]:
    """Inverse document frequencies under the references' corpus; an n-gram that it lacks counts as in one image."""
    frequencies = references.corpus.own_document_frequencies
    found = np.array([frequencies.get(ngram, 0) for ngram in ngrams], dtype=np.float64)
    return np.log(float(len(references.corpus))) - np.log(np.maximum(found, 1.0))


def _sums(
    values: Float[np.ndarray, " entry"], caption: Int[np.ndarray, " entry"], order: Int[np.ndarray, " entry"], rows: int
) -> Float[np.ndarray, "caption order"]:
    flat = np.bincount(caption * MAX_ORDER + order, values, minlength=rows * MAX_ORDER)
    return flat.reshape(rows, MAX_ORDER).astype(np.float64)  # of no values NumPy makes integers


@dataclass(frozen=True)
class _Table:
    """The references' captions as vectors, their entries arranged to be found by image and n-gram.

    A pair is an image and an n-gram that its captions hold, as one number; entries `starts[p]` to `starts[p + 1]`
    of `caption` and `weight` are those of pair p.
    """

    numbers: dict[NGram, int]
    idf: Float[np.ndarray, " ngram"]
    images: Int[np.ndarray, " caption"]
    norms: Float[np.ndarray, "caption order"]
    bigrams: Float[np.ndarray, " caption"]
    pairs: Int[np.ndarray, " pair"]
    starts: Int[np.ndarray, " pair_and_end"]
    caption: Int[np.ndarray, " entry"]
    weight: Float[np.ndarray, " entry"]


_tables: "WeakKeyDictionary[References, _Table]" = WeakKeyDictionary()


def _table_of(references: References) -> _Table:
    found = _tables.get(references)
    if found is None:
        found = _tables[references] = _make_table(references)
    return found


def _make_table(references: References) -> _Table:
    captions = list(references.tokens.values())
    images = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    entries = _count([text for texts in captions for text in texts], {})
    idf = _idf(entries.unknown, references)
    vectors = _weigh(entries, idf[:0], references)
    keys = images[entries.caption] * len(idf) + entries.ngram
    by_pair = np.argsort(keys, kind="stable")
    pairs, starts = np.unique(keys[by_pair], return_index=True)
    return _Table(
        numbers=entries.unknown,
        idf=idf,
        images=images,
        norms=vectors.norms,
        bigrams=vectors.bigrams,
        pairs=pairs,
        starts=np.append(starts, len(keys)),
        caption=entries.caption[by_pair],
        weight=vectors.weight[by_pair],
    )


def _products(given: _Vectors, table: _Table) -> Float[np.ndarray, "caption order"]:
    """Clipped inner products of each reference with its image's prediction."""
    entries = given.entries
    known = entries.ngram < len(table.idf)
    keys = entries.caption[known] * len(table.idf) + entries.ngram[known]
    place = np.searchsorted(table.pairs, keys)
    found = np.append(table.pairs, -1)[place] == keys
    start, end = table.starts[place[found]], table.starts[place[found] + 1]
    spans = end - start
    # the entries of all pairs found, one pair after another
    each = np.repeat(start - np.cumsum(spans) + spans, spans) + np.arange(spans.sum())
    theirs = table.weight[each]
    ours = np.repeat(given.weight[known][found], spans)
    order = np.repeat(entries.order[known][found], spans)
    return _sums(np.minimum(ours, theirs) * theirs, table.caption[each], order, len(table.images))
