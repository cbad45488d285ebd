"""Captions to tokens exactly as coco-caption does: the PTB tokenizer, lower case, punctuation taken out.

Follows pycocoevalcap 1.2's ptbtokenizer. One thing is done before: every kind of white space becomes a plain space,
because a line separator inside a caption (U+2028 and its like) makes the tokenizer emit an extra line, which shifts
every later caption of coco-caption's own run by one. Where white space is none of its line ends (tests name them),
the tokens are the same with and without.
"""

from collections.abc import Sequence

from captioncrafter.errors import DataError, ScorerError, counted
from captioncrafter.metrics import java

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that are taken out. The brackets stand here in capitals while tokens are lower case, so `-lrb-` stays."""


def tokenize(captions: Sequence[str], scorer: java.CaptionScorer | None = None) -> list[str]:
    """Each caption's tokens, joined by single spaces; empty where nothing but punctuation was there.

    The captions are one text to the tokenizer, a line each, as in coco-caption. Raises `ScorerError` when the
    answer does not have a line for each caption, `DataError` for a caption that is no Unicode text.
    """
    if not captions:
        return []
    plain = [" ".join(caption.split()) for caption in captions]
    _refuse_half_characters(plain)
    lines = (scorer or java.shared()).ask("TOKENIZE", plain)
    if len(lines) != len(captions):
        raise ScorerError(f"the tokenizer gave {counted(len(lines), 'line')} for {counted(len(captions), 'caption')}.")
    return [_without_punctuation(line) for line in lines]


def _refuse_half_characters(captions: Sequence[str]) -> None:
    """JSON may spell one half of a surrogate pair alone, which no encoding of text can write."""
    try:
        "\n".join(captions).encode()
    except UnicodeEncodeError as error:
        number = error.object.count("\n", 0, error.start)
        raise DataError(
            f"caption {number + 1} of {len(captions)}, {captions[number][:60]!r}: U+{ord(error.object[error.start]):X} "
            "is half of a character (a lone surrogate). Write the whole character or leave it out."
        ) from None


def _without_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)
