"""Whether a training may begin in a folder, go on there, or is already finished.

A run begins when its recipe is written, which is after every check passed: a command that failed before can simply be
given again.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from captioncrafter import events, recipe, runs
from captioncrafter.errors import InputError
from captioncrafter.model.checkpoint import bundled
from captioncrafter.training.loop import FitResult

RESULT = "result"
_SAME_WHEN_RESUMED = ("checkpoint", "data", "features", "precision")


def open_run(options: recipe.Recipe, out: Path, *, resume: bool) -> runs.Run:
    """The run in `out`, which may be still to begin; nothing is written.

    Raises `InputError` when `out` holds a run of another recipe, or an unfinished one and `resume` is not set; when
    there is none and it is; and for what this machine or this process cannot do.
    """
    _refuse_several_processes()
    _refuse_missing_tracker(options.tracking)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, and a run needs a folder. Choose another --out.")
    run = runs.Run(out)
    runs.recover(run.adapter)
    if not (out / runs.RECIPE).is_file():
        if resume:
            raise InputError(f"{out}: nothing to resume: no run is there. Leave out --resume to start one.")
        return run
    different = _differences(run.recipe(), options.model_dump(mode="json"))
    if different:
        raise InputError(
            f"{out}: holds a run of another recipe:\n  "
            + "\n  ".join(different)
            + "\nGive the same one to go on with it, or another --out."
        )
    if not resume and RESULT not in run.manifest():
        raise InputError(f"{out}: an unfinished run is already there. Go on with --resume, or choose another --out.")
    return run


def located(options: recipe.Recipe) -> recipe.Recipe:
    """The recipe with its folders as absolute paths, so that the run can be used from anywhere."""
    data, model = options.data, options.model
    if data.path is not None:
        data = data.model_copy(update={"path": str(runs.user_path(data.path).absolute())})
    if model.base not in bundled() and runs.user_path(model.base).is_dir():
        model = model.model_copy(update={"base": str(runs.user_path(model.base).absolute())})
    return options.model_copy(update={"data": data, "model": model})


def finished(run: runs.Run) -> FitResult | None:
    """How the run ended, where it has; that is said, and nothing is done again."""
    result = run.manifest().get(RESULT)
    if result is None:
        return None
    events.say(f"{run.path}: this run is finished; nothing was done again. Another --out starts a fresh one.")
    return FitResult(**result)


def refuse_other_inputs(run: runs.Run, facts: dict[str, Any]) -> None:
    """Raises `InputError` when a run that has begun did so with another checkpoint, other data or another precision.

    The recipe names those by path; what lies there may have changed.
    """
    before = run.manifest()
    if not (run.path / runs.RECIPE).is_file() or not before:
        return
    different = _differences(
        {key: before.get(key) for key in _SAME_WHEN_RESUMED}, {key: facts[key] for key in _SAME_WHEN_RESUMED}
    )
    if different:
        raise InputError(
            f"{run.path}: what the run was started with has changed since:\n  "
            + "\n  ".join(different)
            + "\nPut it back to go on, or choose another --out."
        )


def begin(run: runs.Run, options: recipe.Recipe, facts: dict[str, Any]) -> None:
    """Writes the recipe and the manifest, unless the run has begun before."""
    if not (run.path / runs.RECIPE).is_file():
        # The manifest first: a recipe on disk means that the run has begun, and then its facts are there to compare.
        run.add_to_manifest(**facts)
        runs.write_json(run.path / runs.RECIPE, options.model_dump(mode="json"))


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old!r} in the run, {new!r} now")
    return found


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "training runs in one process, and several were started (WORLD_SIZE is "
            f"{os.environ['WORLD_SIZE']}): each would write the same run. Leave out accelerate launch or torchrun."
        )


def _refuse_missing_tracker(tracking: recipe.Tracking) -> None:
    if tracking.tracker != "none" and importlib.util.find_spec(tracking.tracker) is None:
        raise InputError(
            f'tracking.tracker = "{tracking.tracker}": not installed. pip install "captioncrafter[track]", or leave it '
            "out."
        )
