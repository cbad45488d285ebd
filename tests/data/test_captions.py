"""Captions as training wants them."""

import pytest

from captioncrafter.data.captions import normalise


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("A dog runs .", "a dog runs"),
        ('A sign reads "STOP"!', "a sign reads stop"),
        ("  two\tdogs \u2028 run\n", "two dogs run"),
        ("dog(s); a #1 ~ b: c*", "dog s a 1 b c"),
        ("a man's well-known dog, really?", "a man's well-known dog, really?"),
        ("Über ÉTÉ", "über été"),
        (" . ", ""),
    ],
)
def test_captions_are_cleaned_as_blip2s_makers_clean_them(written: str, normalised: str):
    assert normalise(written) == normalised
