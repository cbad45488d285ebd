"""Stops a run at the next safe point when the system, the user or its time budget asks for it."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from captioncrafter.errors import CaptionCrafterError

GO_ON = 0
OUT_OF_TIME = 1
"""Below every signal listened to, so that the greatest code of several processes is a signal where one has come."""


class Stopped(CaptionCrafterError):
    """The run was asked to stop and left a checkpoint: in every process of it, after the same step.

    `exit_code` is 128 + the signal, as shells expect, and 0 where the run used up the time it was given: that is no
    failure, and `str` says how to go on.
    """

    of_all_processes = True

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = 0 if code == OUT_OF_TIME else 128 + code


class StopRequest:
    """Whether SIGINT or SIGTERM has come since `listening` began, or `deadline` (`time.monotonic`) has passed."""

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.signal_number: int | None = None

    @property
    def code(self) -> int:
        """`GO_ON`, `OUT_OF_TIME` or the number of the signal, which counts for more than the time."""
        if self.signal_number is not None:
            return self.signal_number
        return OUT_OF_TIME if self.deadline is not None and time.monotonic() >= self.deadline else GO_ON

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal; a second one ends at once, as that signal does: SIGINT 130, SIGTERM 143."""
        del frame
        if self.signal_number is not None:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.signal_number = number


def reason(code: int) -> str:
    """Why a run stops, to stand in a sentence: `SIGTERM came` or `its time is used up`."""
    return "its time is used up" if code == OUT_OF_TIME else f"{signal.Signals(code).name} came"


@contextmanager
def listening(stop_after_s: float | None = None) -> Iterator[StopRequest]:
    """Within, SIGINT and SIGTERM are noted instead of ending the process (in the main thread; elsewhere untouched).

    After `stop_after_s` seconds, where given, the request asks to stop too.
    """
    request = StopRequest(None if stop_after_s is None else time.monotonic() + stop_after_s)
    try:
        previous = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signal.signal works in the main thread only
        previous = {}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
