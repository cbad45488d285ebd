"""The run that every fault is tried on: tiny, whole (features, steps of several batches, validations, saves), exact.

A trial interrupts it, does harm between the two if asked to, goes on with it, and tells what is wrong with the end:
nothing, where it is the uninterrupted run's bit for bit or a clear refusal.
"""

import re
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from faults.forks import Ended, Forks, Started
from faults.likeness import differences

RECIPE = """
[model]
base = "{base}"
precision = "fp32"
device = "cpu"
[data]
path = "{data}"
[training]
epochs = 8
images_per_step = 4
images_per_batch = 2
learning_rate = 1e-2
checkpoint_every_steps = 4
log_every_steps = 2
[validation]
every_epochs = 2
patience = 100
[decoding]
num_beams = 1
max_new_tokens = 6
images_per_batch = 2
"""
STEPS = 24
"""Three steps an epoch, of two, two and one batches; validations after steps 6, 12, 18 and 24, saves between them."""

_SAID = re.compile(r"^(error: |stopped |warning: .* Set aside)", re.MULTILINE)


@dataclass(frozen=True)
class Trial:
    """A run that met a fault, and the command that went on with it."""

    first: Ended
    second: Ended
    unlike: list[str]

    @property
    def refused(self) -> bool:
        """Whether going on was refused, in words."""
        return self.second.status in (1, 2)

    def complaints(self) -> list[str]:
        """What is wrong with the end; nothing for an exact continuation or a clear refusal."""
        return [*unclear(self.first), *unclear(self.second), *([] if self.refused else self.unlike)]

    def continued(self) -> list[str]:
        """What is wrong with the end, where only an exact continuation will do."""
        return [*self.complaints(), *([f"refused: {self.second.said}"] if self.refused else [])]


def unclear(ended: Ended) -> list[str]:
    """What is wrong with how a process ended: no end at all, a traceback, a failure without a word."""
    if ended.status is None:
        return [f"it had to be killed for hanging: {ended.said[-500:]}"]
    if "Traceback (most recent call last)" in ended.said:
        return [f"a traceback: {ended.said[-1500:]}"]
    if ended.status < 0 and ended.status != -signal.SIGKILL:
        return [f"ended by {signal.Signals(-ended.status).name}: {ended.said[-500:]}"]
    if ended.status > 0 and not _SAID.search(ended.said):
        return [f"ended {ended.status} without saying why: {ended.said[-500:]}"]
    return []


@dataclass(frozen=True)
class Course:
    """Where runs of the one recipe are started."""

    forks: Forks
    folder: Path
    recipe: Path

    @cached_property
    def whole(self) -> Path:
        """The run without a fault."""
        ended = self.start(self.folder / "whole").end()
        assert ended.status == 0, ended.said
        return self.folder / "whole"

    @cached_property
    def seconds(self) -> float:
        """How long a run without a fault takes."""
        return self.start(self.folder / "timed").end().seconds

    def start(
        self,
        out: Path,
        *words: str,
        faults: Sequence[Mapping[str, Any]] = (),
        without: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Started:
        """Begins the run in `out`, with a feature cache of its own beside it, or goes on with the one that is there."""
        resume = ["--resume"] if (out / "recipe.json").is_file() else []
        return self.forks.start(
            ["train", str(self.recipe), "--out", str(out), *resume, *words],
            environment={"CAPTIONCRAFTER_CACHE": str(cache_of(out))} | dict(environment or {}),
            faults=faults,
            without=without,
        )

    def trial(
        self,
        out: Path,
        *words: str,
        faults: Sequence[Mapping[str, Any]],
        harm: Callable[[Path], object] | None = None,
        without: Sequence[str] = (),
    ) -> Trial:
        """Runs into `faults`, does `harm` to the run folder, goes on without a fault."""
        first = self.start(out, *words, faults=faults, without=without).end()
        if harm is not None:
            harm(out)
        return self.gone_on(out, first, *words, without=without)

    def gone_on(self, out: Path, first: Ended, *words: str, without: Sequence[str] = ()) -> Trial:
        """Goes on with the run in `out`, however it ended, and compares it."""
        second = self.start(out, *words, without=without).end()
        return Trial(first, second, differences(out, self.whole))

    def start_together(
        self, out: Path, *words: str, faults: Mapping[int, Sequence[Mapping[str, Any]]] | None = None
    ) -> list[Started]:
        """Begins or goes on with the run as two processes; `faults` by rank."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        ranks = [together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        given = faults or {}
        return [self.start(out, *words, faults=given.get(rank, ()), environment=own) for rank, own in enumerate(ranks)]


def cache_of(out: Path) -> Path:
    """The feature cache of the run in `out`."""
    return out.with_name(f"{out.name}-cache")


def send(number: int, *, at: str, nth: int) -> dict[str, Any]:
    """The fault of a signal to itself, just before the nth call of a moment."""
    return {"at": at, "nth": nth, "do": "send", "number": int(number)}
