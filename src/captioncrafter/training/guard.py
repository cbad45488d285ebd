"""Stops a run at the next safe point when the system or the user asks for it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from captioncrafter.errors import CaptionCrafterError


class Stopped(CaptionCrafterError):
    """The run was asked to stop and left a checkpoint; `exit_code` is 128 + the signal, as shells expect."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Whether SIGINT or SIGTERM has come since `listening` began."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal; a second one interrupts at once."""
        del frame
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Within, SIGINT and SIGTERM are noted instead of ending the process (in the main thread; elsewhere untouched)."""
    request = StopRequest()
    try:
        previous = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signal.signal works in the main thread only
        previous = {}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
