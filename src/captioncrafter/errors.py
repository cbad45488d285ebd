"""What can go wrong, as the user meets it: one class per exit status, one message per fault.

A message names the thing, the place and the way out. `cli` prints it without a traceback and ends with
`exit_code`; `--debug` shows the traceback too. Imports nothing.
"""

import difflib
from collections.abc import Iterable


class CaptionCrafterError(Exception):
    """Something failed while working: exit status 1."""

    exit_code = 1
    of_all_processes = False
    """Whether every process of a run ends by it, so that one of them says it for all."""


class InputError(CaptionCrafterError):
    """What the user gave (a name, file, folder, option or value) cannot be used: exit status 2."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe is missing, unreadable or holds a wrong key or value."""


class DataError(InputError):
    """A dataset, predictions file or references file cannot be used as it is."""


class ImageError(DataError):
    """An image cannot be read; `reason` says why in a few words, without naming the image."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}.")
        self.reason = reason


class CheckpointError(InputError):
    """A base model or adapter is missing, damaged or of the wrong kind."""


class PreflightError(CaptionCrafterError):
    """Training would go wrong in silence; it was stopped before the first step."""


class ScorerError(CaptionCrafterError):
    """The Java scorers cannot be started, stopped answering or gave an impossible answer."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """How many of what: `1 image`, `1,200 images`; `many` where the plural is not `one` with an s behind it.

    A verb may stand in both: `counted(len(images), "image has", "images have")`.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def closest(word: str, known: Iterable[str]) -> str:
    """The sentence `Did you mean "…"?` for the known word most like `word`; empty when none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' Did you mean "{matches[0]}"?' if matches else ""
