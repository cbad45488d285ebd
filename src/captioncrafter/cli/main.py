"""The command line: one verb a stage, results on stdout, everything else on stderr, one message per failure.

Ends 0 (done), 1 (failed), 2 (wrong usage or input), 3 (done, but some items were set aside), 130/143 (stopped),
141 (whoever read the output went away).
Imports torch and transformers only once a verb is at work, so that `--help` answers at once.
"""

import functools
import operator
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import subcommand

from captioncrafter import __version__, events, recipe
from captioncrafter.cli import diagnosis, options, training, verbs
from captioncrafter.cli.commands import (
    Caption,
    Compare,
    Doctor,
    Evaluate,
    Export,
    Plan,
    Prepare,
    Quickstart,
    Report,
    Train,
)
from captioncrafter.errors import CaptionCrafterError, InputError

_OUT_OF_MEMORY = (
    "out of memory. Fewer images at once help: --features.images-per-batch while features are computed, "
    "--training.images-per-batch while training (the step stays the same; --training.gradient-checkpointing too), "
    "--images-per-batch while captioning, --decoding.images-per-batch while validating. What was finished is kept."
)
_SPINS = "10000"
"""Rounds in which a waiting thread looks again before it sleeps; libgomp's own number is 300,000."""

_TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if not debug:
        # What one library has to say to the authors of another is nothing that a user can act on.
        warnings.simplefilter("ignore", FutureWarning)
        # An image that Pillow warns of either decodes or is set aside by name.
        warnings.filterwarnings("ignore", module=r"PIL\.")
    _share_cores()
    signal.signal(signal.SIGTERM, _end)
    try:
        status = _run(_parse([word for word in given if word != "--debug"]))
        sys.stdout.flush()
    except CaptionCrafterError as error:
        if debug:
            traceback.print_exc()
        status = error.exit_code
        if not error.of_all_processes or events.is_main_process():
            (events.fail if status else events.say)(str(error))
    except KeyboardInterrupt:
        events.fail("interrupted")
        status = 130
    except SystemExit as end:
        # Said here and not by what handles the signal, which may have come amid another line.
        if end.code == _TERMINATED:
            events.fail("terminated")
        raise
    except BrokenPipeError:
        # Whoever read our captions has enough of them, as `head` does. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        if debug:
            traceback.print_exc()
        events.fail(_OUT_OF_MEMORY)
        status = 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        events.fail(_system_error(error))
        status = 1
    sys.exit(status)


def _share_cores() -> None:
    """Has PyTorch's threads sleep soon where they wait for one another; its OpenMP (libgomp) asks when it is loaded.

    On cores that other programs use too, a thread that spins may keep out the very one that it waits for.
    docs/performance.md has figures.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as an exception would, so that temporary files go and children are ended."""
    del number, frame
    sys.exit(_TERMINATED)


def _system_error(error: OSError) -> str:
    """What the system refused: a full disk, a folder that may not be written, too many open files."""
    named = f"{error.filename}: " if error.filename else ""
    return (
        f"{named}{error.strerror or error}. Nothing that was finished before is lost; --debug shows where it happened."
    )


def _parse(given: list[str]) -> Any:
    """The command that the words ask for; tyro ends the process itself for `--help` and for wrong usage."""
    if given == ["--version"]:
        sys.stdout.write(f"captioncrafter {__version__}\n")
        sys.exit(0)
    train, plan = _defaults_of(Train, given), _defaults_of(Plan, given)
    with options.unchecked_sections:
        command = tyro.cli(
            _commands(train, plan),
            args=given or ["--help"],
            prog="captioncrafter",
            description="Teach BLIP-2 to caption your images. "
            "--version tells the version; --debug, after any command, shows the traceback of an error.",
        )
    if not isinstance(command, Train | Plan):
        return command
    if command.recipe not in (train.recipe, plan.recipe):
        raise InputError(f"RECIPE comes first: captioncrafter {given[0]} {command.recipe} …")
    return options.checked(command, (train if isinstance(command, Train) else plan).options)


_Tuning = TypeVar("_Tuning", Train, Plan)


def _defaults_of(verb: type[_Tuning], given: list[str]) -> _Tuning:
    """What `train RECIPE` or `plan RECIPE` starts from: its `--help` shows that recipe, and options override it."""
    named = len(given) > 1 and given[0] == verb.__name__.lower() and not given[1].startswith("-")
    return verb(given[1], options=recipe.load(given[1])) if named else verb("")


def _commands(train: Train, plan: Plan) -> Any:
    commands = (
        Annotated[Quickstart, subcommand("quickstart")],
        Annotated[Prepare, subcommand("prepare")],
        Annotated[Train, subcommand("train", default=train)] if train.recipe else Annotated[Train, subcommand("train")],
        Annotated[Plan, subcommand("plan", default=plan)] if plan.recipe else Annotated[Plan, subcommand("plan")],
        Annotated[Evaluate, subcommand("evaluate")],
        Annotated[Compare, subcommand("compare")],
        Annotated[Caption, subcommand("caption")],
        Annotated[Report, subcommand("report")],
        Annotated[Export, subcommand("export")],
        Annotated[Doctor, subcommand("doctor")],
    )
    return functools.reduce(operator.or_, commands)


_VERBS: dict[type, Callable[[Any], int]] = {
    Quickstart: verbs.quickstart,
    Prepare: verbs.prepare,
    Train: training.train,
    Plan: verbs.plan,
    Evaluate: verbs.evaluate,
    Compare: verbs.compare,
    Caption: verbs.caption,
    Report: verbs.report,
    Export: verbs.export,
    Doctor: diagnosis.doctor,
}


def _run(command: Any) -> int:
    return _VERBS[type(command)](command)
