"""What a person sees while work goes on: lines, warnings and progress, on stderr.

On a terminal, progress is a live bar with the time left; elsewhere it is a plain line now and then, so that logs
stay readable. Results go to stdout and are `cli`'s. Nothing else in the package writes to the terminal. Imports no
torch.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console

PLAIN_LINE_EVERY_S = 15.0

_console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

# File names and captions come from strangers: none may steer the terminal.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def is_main_process() -> bool:
    """Whether this process speaks for the run; under `accelerate launch` or `torchrun`, rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """One line about what is being done."""
    if is_main_process():
        _print(message)


def warn(message: str) -> None:
    """One line about something the user should know but that did not stop the work."""
    if is_main_process():
        _print(f"warning: {message}", style="yellow")


def fail(message: str) -> None:
    """The one message that says why the command ended."""
    _print(f"error: {message}", style="red")


def _print(message: str, style: str | None = None) -> None:
    _console.print(message.translate(_VISIBLE), style=style, markup=False)


class Progress(Protocol):
    """A count that goes up."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """`amount` more items are done; `note` stands beside the count."""
        ...


@contextmanager
def progress(what: str, total: int, *, done: int = 0) -> Iterator[Progress]:
    """Shows how many of `total` items of `what` are done and how long the rest will take."""
    if not is_main_process():
        yield _Silent()
    elif sys.stderr.isatty():
        with _live_bar(what, total, done) as bar:
            yield bar
    else:
        lines = _PlainLines(what, total, done)
        yield lines
        lines.close()


class _Silent:
    def advance(self, amount: int = 1, note: str = "") -> None:
        del amount, note


@contextmanager
def _live_bar(what: str, total: int, done: int) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=_console) as bars:
        task = bars.add_task(what, total=total, completed=done, note="")

        class _Bar:
            def advance(self, amount: int = 1, note: str = "") -> None:
                bars.advance(task, amount)
                if note:
                    bars.update(task, note=note)

        yield _Bar()


@dataclass
class _PlainLines:
    what: str
    total: int
    done: int
    started: float = field(default_factory=time.monotonic)
    last_line: float = field(default_factory=time.monotonic)
    said: int = -1
    note: str = ""

    def __post_init__(self) -> None:
        self.already = self.done

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        if time.monotonic() - self.last_line >= PLAIN_LINE_EVERY_S:
            self._line()

    def close(self) -> None:
        if self.done != self.said:
            self._line()

    def _line(self) -> None:
        now = time.monotonic()
        elapsed = now - self.started
        rate = (self.done - self.already) / elapsed if elapsed > 0 else 0.0
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        say(
            f"{self.what}: {self.done}/{self.total} in {duration(elapsed)}{left}{'  ' + self.note if self.note else ''}"
        )
        self.last_line = now
        self.said = self.done


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
