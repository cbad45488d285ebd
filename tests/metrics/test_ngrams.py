"""N-grams, in order and counted."""

from captioncrafter.metrics.ngrams import count_ngrams, ngrams_of


def test_ngrams_come_by_order_and_then_by_place():
    ngrams = list(ngrams_of("a b a"))

    assert ngrams == [("a",), ("b",), ("a",), ("a", "b"), ("b", "a"), ("a", "b", "a")]


def test_every_order_from_one_to_four_is_counted():
    counts = count_ngrams("a b a b a")

    assert counts == {
        ("a",): 3,
        ("b",): 2,
        ("a", "b"): 2,
        ("b", "a"): 2,
        ("a", "b", "a"): 2,
        ("b", "a", "b"): 1,
        ("a", "b", "a", "b"): 1,
        ("b", "a", "b", "a"): 1,
    }


def test_a_short_caption_has_no_long_ngrams():
    assert count_ngrams("a dog") == {("a",): 1, ("dog",): 1, ("a", "dog"): 1}


def test_an_empty_caption_has_none():
    assert count_ngrams("") == {}
