"""`captioncrafter train` on the terminal: what came of it, or how to go on after it was stopped.

Stages are imported inside, because torch takes seconds to import.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from captioncrafter import events, recipe, runs
from captioncrafter.cli import tables
from captioncrafter.cli.commands import Train
from captioncrafter.cli.verbs import DONE, SOME_SET_ASIDE
from captioncrafter.errors import InputError, counted
from captioncrafter.training.guard import Stopped, reason

_TERMINATED = 128 + signal.SIGTERM


def train(command: Train) -> int:
    """Status 0 for a run that is finished, now or before; 3 when steps of it were set aside."""
    out = command.out or Path("runs") / Path(command.recipe).stem
    options = command.options
    if command.on_nonfinite is not None:
        training = options.training.model_copy(update={"on_nonfinite": command.on_nonfinite})
        options = options.model_copy(update={"training": training})
    stop_after_s = None if command.stop_after is None else duration_s(command.stop_after)
    if command.seeds:
        return _train_seeds(command, options, out, stop_after_s)
    with _telling_how_to_go_on(out):
        from captioncrafter.stages import train as stage

        result = stage.train(options, out, resume=command.resume, branch=command.branch, stop_after_s=stop_after_s)
    status = SOME_SET_ASIDE if result.skipped else DONE
    if not events.is_main_process():
        return status
    facts = {
        "run": str(out),
        "adapter": str(out / "adapter"),
        "steps": result.steps,
        "best_step": result.best_step,
        "best_cider": result.best_cider,
        "stopped_early": result.stopped_early,
        "skipped": result.skipped,
    }
    if command.json:
        tables.print_json(facts)
        return status
    early = ", stopped early" if result.stopped_early else ""
    steps = counted(result.skipped, "step was", "steps were")
    aside = f"; {steps} not finite and set aside" if result.skipped else ""
    tables.print_next(
        f"Best validation CIDEr {100 * result.best_cider:.1f} at step {result.best_step} of {result.steps}"
        f"{early}{aside}. Adapter: {out / 'adapter'}",
        {
            "Score it": f"{tables.program()} evaluate --run {out} --base",
            "Caption with it": f"{tables.program()} caption PHOTOS… --adapter {out / 'adapter'}",
            "Hand it on (--merge: as a whole model)": f"{tables.program()} export {out} --to exports/{out.name}",
        },
    )
    return status


def _train_seeds(command: Train, options: recipe.Recipe, out: Path, stop_after_s: float | None) -> int:
    from captioncrafter.stages.seeds import SEEDS, train_seeds

    if command.branch is not None:
        raise InputError("--branch does not go with --seeds, which starts every run afresh. Leave one of them out.")
    with _telling_how_to_go_on(out):
        found = train_seeds(options, out, command.seeds, resume=command.resume, stop_after_s=stop_after_s)
    status = SOME_SET_ASIDE if any(result.skipped for result in found.runs.values()) else DONE
    if not events.is_main_process():
        return status
    if command.json:
        tables.print_json(asdict(found))
        return status
    for seed, result in found.runs.items():
        tables.print_line(
            f"seed {seed}: best validation CIDEr {100 * result.best_cider:.1f} at step {result.best_step}"
        )
    tables.print_line(
        f"mean ± sd over {len(found.runs)} seeds: {100 * found.mean_cider:.1f} ± {100 * found.sd_cider:.1f} "
        f"({out / SEEDS})"
    )
    return status


@contextmanager
def _telling_how_to_go_on(out: Path) -> Iterator[None]:
    """Within, a signal that ends the command at once becomes `Stopped`, which says with what words to go on.

    That is one that comes before the first step, or a second one; the loop stops with a checkpoint at a first one.
    """
    try:
        yield
    except KeyboardInterrupt:
        number = signal.SIGINT
    except SystemExit as end:
        if end.code != _TERMINATED:
            raise
        number = signal.SIGTERM
    else:
        return
    begun = any((folder / runs.RECIPE).is_file() for folder in (out, *out.glob("seed-*")))
    raise Stopped(
        f"stopped at once, because {reason(number)}; what was finished before is kept. Give the same command "
        f"{'with --resume' if begun else 'again'} to go on.",
        number,
    )


_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration_s(text: str) -> float:
    """Seconds in a length of time like 90s, 55m or 1.5h; raises `InputError` for anything else."""
    try:
        seconds = float(text[:-1]) * _UNITS_S[text[-1]]
    except (ValueError, KeyError, IndexError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f'"{text}" is no length of time: write 90s, 55m or 2h.')
    return seconds
