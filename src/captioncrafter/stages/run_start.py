"""Whether a training may begin in a folder, go on there, or is already finished.

A run begins when its recipe is written, which is after every check passed: a command that failed before can simply be
given again.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch

from captioncrafter import events, recipe, runs, storage
from captioncrafter.errors import InputError
from captioncrafter.model import lora
from captioncrafter.model.checkpoint import Checkpoint, bundled
from captioncrafter.stages.base import Base
from captioncrafter.training import guard
from captioncrafter.training.loop import FitResult
from captioncrafter.training.processes import Processes

RESULT = "result"
_SAME_WHEN_BRANCHED = {"rank", "alpha", "init", "use_rslora", "use_dora"}
_SAME_WHEN_RESUMED = ("checkpoint", "data", "features", "precision", "processes", "branched_from", "start")


def open_run(options: recipe.Recipe, out: Path, *, resume: bool, branch: Path | None = None) -> runs.Run:
    """The run in `out`, which may be still to begin; nothing is written.

    Raises `InputError` when `out` holds a run of another recipe, or an unfinished one and `resume` is not set; when
    there is none and it is; when `branch` is the run itself or no run; and for what this machine cannot do.
    """
    _refuse_missing_tracker(options.tracking)
    if branch is not None and runs.Run.open(branch).path.resolve() == out.resolve():
        raise InputError(f"{out}: a run cannot branch off itself. Give the new run another --out.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, and a run needs a folder. Choose another --out.")
    run = runs.Run(out)
    for folder in (out, out / runs.CHECKPOINTS):
        storage.recover_all(folder)
    if not (out / runs.RECIPE).is_file():
        if resume:
            raise InputError(f"{out}: nothing to resume: no run is there. Leave out --resume to start one.")
        return run
    different = _differences(_without_reaction(run.recipe()), _without_reaction(options.model_dump(mode="json")))
    if different:
        branching = f"; with --branch {out} that starts from this run's weights"
        other_adapter = _differences_of_adapters(_adapter_of(run), options.lora)
        raise InputError(
            f"{out}: holds a run of another recipe:\n  "
            + "\n  ".join(different)
            + f"\nGive the same one to go on with it, or another --out{'' if other_adapter else branching}."
        )
    if not resume and RESULT not in run.manifest():
        raise InputError(f"{out}: an unfinished run is already there. Go on with --resume, or choose another --out.")
    if not run.manifest():
        raise InputError(
            f"{out / runs.MANIFEST}: gone, and with it what the run was started with. Put it back to go on, or choose "
            f"another --out; with --branch {out} that starts from this run's weights."
        )
    return run


def _without_reaction(written: dict[str, Any]) -> dict[str, Any]:
    """The recipe without what to do about a step that is not finite: a run that stopped there may go on past it."""
    training = {key: value for key, value in written["training"].items() if key != "on_nonfinite"}
    return written | {"training": training}


def refuse_other_adapter(branch: Path, options: recipe.Recipe, base: Base) -> None:
    """Raises `InputError` when the run to branch off has another kind of adapter, or one on other layers.

    Its weights would not fit, or at another scale be another adapter.
    """
    theirs = _adapter_of(runs.Run.open(branch))
    different = _differences_of_adapters(theirs, options.lora)
    layers = lora.planned_layers(base.config, theirs)
    if set(layers) != set(base.layers):
        different.append(
            f"layers: {len(layers)} in the run ({theirs.in_words}), {len(base.layers)} now ({options.lora.in_words})"
        )
    if different:
        raise InputError(
            f"{branch}: its adapter is not of the kind that this recipe asks for:\n  "
            + "\n  ".join(different)
            + "\nTake over its [lora] to start from its weights, or leave out --branch to start afresh."
        )


def _adapter_of(run: runs.Run) -> recipe.Lora:
    return recipe.build(run.recipe(), source=str(run.path / runs.RECIPE)).lora


def _differences_of_adapters(before: recipe.Lora, now: recipe.Lora) -> list[str]:
    old, new = (one.model_dump(mode="json", include=_SAME_WHEN_BRANCHED) for one in (before, now))
    return _differences(old, new, "lora.")


def located(options: recipe.Recipe) -> recipe.Recipe:
    """The recipe with its folders as absolute paths, so that the run can be used from anywhere."""
    data, model = options.data, options.model
    if data.path is not None:
        data = data.model_copy(update={"path": str(storage.user_path(data.path).absolute())})
    if model.base not in bundled() and storage.user_path(model.base).is_dir():
        model = model.model_copy(update={"base": str(storage.user_path(model.base).absolute())})
    return options.model_copy(update={"data": data, "model": model})


def finished(run: runs.Run) -> FitResult | None:
    """How the run ended, where it has; that is said, and nothing is done again."""
    result = run.manifest().get(RESULT)
    if result is None:
        return None
    events.say(f"{run.path}: this run is finished; nothing was done again. Another --out starts a fresh one.")
    return FitResult(**result)


def of_the_same_commit(options: recipe.Recipe, run: runs.Run) -> recipe.Recipe:
    """The recipe, of a run that has begun with the commit of its base: the hub's newest may be another by now."""
    begun = (run.path / runs.RECIPE).is_file()
    revision = run.manifest().get("checkpoint", {}).get("revision") if begun else None
    if revision is None:
        return options
    return options.model_copy(update={"model": options.model.model_copy(update={"revision": revision})})


def tell_commit(found: Checkpoint, model: recipe.Model) -> None:
    """Says which commit an unpinned base of the hub turned out to be."""
    if not found.is_pinned_by(model.revision):
        events.say(
            f"{found.name}: model.revision pins no commit; this is commit {found.revision}, which the run's "
            "manifest.json and its adapter keep"
        )


def stop_before_the_first_step(stop: guard.StopRequest, processes: Processes) -> None:
    """Raises `Stopped`, in every process, when `stop` asks for it in one of them."""
    code = int(processes.agree(torch.tensor([stop.code])))
    if code != guard.GO_ON:
        raise guard.Stopped(
            f"stopped before the first step, because {guard.reason(code)}; features that were computed are kept. "
            "Give the same command again to go on.",
            code,
        )


def refuse_other_inputs(run: runs.Run, facts: dict[str, Any]) -> None:
    """Raises `InputError` when a run that has begun did so with another checkpoint, other data or another precision.

    The recipe names those by path; what lies there may have changed.
    """
    before = run.manifest()
    if not (run.path / runs.RECIPE).is_file() or not before:
        return
    compared = [key for key in _SAME_WHEN_RESUMED if key in facts]
    different = _differences({key: before.get(key) for key in compared}, {key: facts[key] for key in compared})
    if different:
        raise InputError(
            f"{run.path}: what the run was started with has changed since:\n  "
            + "\n  ".join(different)
            + f"\nPut it back to go on, or choose another --out; with --branch {run.path} that starts from this run's "
            "weights."
        )


def begin(run: runs.Run, options: recipe.Recipe, facts: dict[str, Any]) -> None:
    """Writes the recipe and the manifest, unless the run has begun before."""
    if not (run.path / runs.RECIPE).is_file():
        # The manifest first: a recipe on disk means that the run has begun, and then its facts are there to compare.
        run.add_to_manifest(**facts)
        storage.write_json(run.path / runs.RECIPE, options.model_dump(mode="json"))


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old!r} in the run, {new!r} now")
    return found


def _refuse_missing_tracker(tracking: recipe.Tracking) -> None:
    if tracking.tracker != "none" and importlib.util.find_spec(tracking.tracker) is None:
        raise InputError(
            f'tracking.tracker = "{tracking.tracker}": not installed. pip install "captioncrafter[track]", or leave it '
            "out."
        )
