"""The guards that keep a fault from passing in silence, each of them removable, so that its test can be seen red."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

REMOVALS: dict[str, Callable[[], None]] = {}
"""What takes each guard out of the process that calls it, by what is lost."""


def removal(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Lists a function as what removes the guard called `name`."""

    def listed(function: Callable[[], None]) -> Callable[[], None]:
        REMOVALS[name] = function
        return function

    return listed


@removal("checkpoints are held against their hashes")
def _() -> None:
    from captioncrafter.training import checkpoint

    checkpoint._fault = lambda path, needed=(): None


@removal("features are held against their hashes")
def _() -> None:
    from captioncrafter.features import store

    store._Part.intact = lambda self, row: True


@removal("the optimizer's state is restored")
def _() -> None:
    from captioncrafter.training import checkpoint

    checkpoint._restore_optimizer = lambda stored, parameters, optimizer: None


@removal("sums that are not yet logged are in the checkpoint")
def _() -> None:
    from captioncrafter.training import window

    window.Window.to_json = lambda self: {}


@removal("rows of steps that are repeated are taken out of the log")
def _() -> None:
    from captioncrafter import runs

    runs.Run.keep_log = lambda self, keep: None


@removal("dropout is drawn from the step")
def _() -> None:
    from captioncrafter.training import step

    drawn = iter(range(1 << 30))
    step._dropout_seed = lambda seed, at, first: next(drawn)


@removal("signals are listened to")
def _() -> None:
    from captioncrafter.training import guard

    @contextlib.contextmanager
    def deaf(stop_after_s: float | None = None) -> Iterator[Any]:
        yield guard.StopRequest()

    guard.listening = deaf


@removal("weights stay as they are where a step is not finite")
def _() -> None:
    from captioncrafter.training import optimizer

    optimizer.update_if = lambda adamw, finite: adamw.step()


@removal("what a run was started with is compared")
def _() -> None:
    from captioncrafter.stages import train

    train.refuse_other_inputs = lambda run, facts: None


@removal("a smaller world is refused")
def _() -> None:
    from captioncrafter.training import processes

    processes.refuse_smaller_world = lambda: None


@removal("one training at a time is at work in a folder")
def _() -> None:
    from captioncrafter.stages import run_lock

    run_lock.held = lambda folder, processes: contextlib.nullcontext()


@removal("files are written beside and renamed")
def _() -> None:
    from captioncrafter import storage

    @contextlib.contextmanager
    def in_place(path: Any) -> Iterator[Any]:
        path.mkdir(parents=True, exist_ok=True)
        yield path

    storage.replacing_folder = in_place
