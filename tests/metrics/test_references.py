"""Captions by people, and what scores need of them."""

import pytest

from captioncrafter.errors import DataError
from captioncrafter.metrics.java import CaptionScorer
from captioncrafter.metrics.references import References


def test_images_keep_the_order_they_were_given_in():
    references = References({"b": ["a dog"], "a": ["a cat"]})

    assert references.image_ids == ("b", "a")
    assert len(references) == 2


def test_each_image_has_the_tokens_of_its_own_captions():
    references = References({"1": ["Two dogs.", "A dog!"], "2": ["..."], "3": ["A cat"]})

    assert references.tokens == {"1": ("two dogs", "a dog"), "2": ("",), "3": ("a cat",)}


def test_clipping_counts_are_the_most_of_any_one_caption():
    references = References({"1": ["dog dog cat", "dog cat cat"]})

    most = references.most_ngrams["1"]

    assert (most["dog",], most["cat",]) == (2, 2)


def test_document_frequencies_count_images_not_captions():
    references = References({"1": ["a dog", "the dog"], "2": ["a cat"]})

    frequencies = references.own_document_frequencies

    assert (frequencies["dog",], frequencies["a",], frequencies["the", "dog"]) == (1, 2, 1)


def test_the_captions_are_tokenized_once():
    scorer = CaptionScorer()
    references = References({"1": ["a dog"]}, scorer=scorer)
    first = references.tokens
    scorer.close()

    assert references.tokens is first
    assert scorer.process is None


def test_captions_added_to_the_callers_list_later_change_nothing():
    captions = {"1": ["a dog"]}
    references = References(captions)

    captions["1"].append("a cat")

    assert references.captions == {"1": ("a dog",)}


def test_an_image_without_captions_is_refused_by_name():
    with pytest.raises(DataError, match=r"1 image has no caption, lonely\.jpg first"):
        References({"1": ["a dog"], "lonely.jpg": []})


def test_no_images_at_all_are_refused():
    with pytest.raises(DataError, match="no references"):
        References({})


def test_document_frequencies_are_its_own_or_those_of_the_corpus_given():
    own = References({"1": ["a dog"], "2": ["a cat"]})
    other = References({"1": ["a dog"]}, document_frequencies=own)

    assert own.corpus is own
    assert other.corpus is own


def test_the_protocol_names_where_document_frequencies_come_from():
    own = References({"1": ["a dog"], "2": ["a cat"]})
    other = References({"1": ["a dog"]}, document_frequencies=own)

    assert own.corpus_name == "evaluated references"
    assert other.corpus_name == "another corpus of 2 images"


def test_the_same_content_has_the_same_fingerprint():
    assert References({"1": ["a dog", "b"]}).fingerprint == References({"1": ("a dog", "b")}).fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"1": ["a dogb"]},
        {"1a": [" dog", "b"]},
        {"1": ["b", "a dog"]},
        {"2": ["a dog", "b"]},
        {"1": ["a dog"], "b": [""]},
    ],
)
def test_other_content_has_another_fingerprint(other: dict[str, list[str]]):
    assert References(other).fingerprint != References({"1": ["a dog", "b"]}).fingerprint


def test_references_of_the_same_content_are_worked_out_once():
    first = References.kept({"1": ["a dog"], "2": ["a cat"]})

    assert References.kept({"1": ["a dog"], "2": ["a cat"]}) is first


def test_references_under_another_corpus_are_others():
    corpus = References({"1": ["a dog"], "2": ["a cat"]})

    assert References.kept({"1": ["a dog"]}, document_frequencies=corpus) is not References.kept({"1": ["a dog"]})


def test_only_the_references_used_last_are_kept():
    first = References.kept({"1": ["a dog"]})
    for text in ("a cat", "a cow"):
        References.kept({"1": [text]})

    assert References.kept({"1": ["a dog"]}) is not first
