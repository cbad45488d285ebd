"""Captions as training wants them."""

import re

_STRIPPED = re.compile(r"[.!\"()*#:;~]")


def normalise(caption: str) -> str:
    """Lower case, without the signs `.!"()*#:;~`, runs of white space as one space, nothing around it.

    This is how BLIP-2's makers clean what it learns to write (LAVIS 1.0, `blip_caption`). References are never
    normalised: scoring has its own tokenizer.
    """
    return " ".join(_STRIPPED.sub(" ", caption.lower()).split())
