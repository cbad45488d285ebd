"""What a training takes, seen from outside: seconds, items and memory of each of its phases.

The product's functions are called through a wrapper while one watches; they know nothing of it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch

from _machine import PeakMemory, busy_seconds, own_memory_mib, wait
from captioncrafter.stages import frozen_half, validation
from captioncrafter.training import preflight
from captioncrafter.training.step import Stepper

_WATCHED: dict[str, tuple[Any, str, Callable[[Any], int]]] = {
    "features": (frozen_half, "extract", int),
    "checks": (preflight, "check", lambda measured: 1),
    "training": (Stepper, "update", lambda update: update.captions),
    "validation": (validation, "captions_of", len),
}
"""Where each phase of `captioncrafter plan` happens, and how many images (in training, captions) a call was about."""


@dataclass
class Seen:
    """What a phase came to: memory at its fullest since the watch was made, and of this process alone.

    `busy_seconds` are those in which its threads had a core: fewer than `seconds` where others wanted it too.
    """

    items: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    peak_mib: float = 0.0
    own_mib: float = 0.0

    @property
    def seconds_an_item(self) -> float:
        """Mean time of one image or caption."""
        return self.seconds / self.items

    @property
    def busy_seconds_an_item(self) -> float:
        """The same without what others took of the machine."""
        return self.busy_seconds / self.items


class Watch:
    """Owns what was seen of each phase. Memory is counted from when it is made: make it before a model is loaded."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: dict[str, Seen] = {}
        self._memory = PeakMemory(device)
        self._now = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, every phase of a training is seen."""
        with ExitStack() as watched:
            for phase, (place, name, count) in _WATCHED.items():
                wrapped = self._wrapped(phase, getattr(place, name), count)
                watched.enter_context(patch.object(place, name, wrapped))
            yield

    def _wrapped(self, phase: str, function: Callable[..., Any], count: Callable[[Any], int]) -> Callable[..., Any]:
        seen = self.phases.setdefault(phase, Seen())

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._now != phase:
                self._memory.restart()
                self._now = phase
            started, busy = time.perf_counter(), busy_seconds(self.device)
            result = function(*args, **kwargs)
            wait(self.device)
            seen.seconds += time.perf_counter() - started
            seen.busy_seconds += busy_seconds(self.device) - busy
            seen.items += count(result)
            seen.peak_mib = max(seen.peak_mib, self._memory.mib())
            seen.own_mib = max(seen.own_mib, own_memory_mib())
            return result

        return watched
