"""A run folder: recipe, manifest, log, checkpoints, adapter, and whether data, base and features are still its own."""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioncrafter import recipe, runs, storage
from captioncrafter.data.splits import load_splits
from captioncrafter.errors import CaptionCrafterError, counted
from captioncrafter.generation.origin import CAPTIONING
from captioncrafter.model import checkpoint
from captioncrafter.stages.ailments.adapter import Named, base_on_disk, examine_adapter
from captioncrafter.stages.ailments.caption_file import examine_predictions_of
from captioncrafter.stages.ailments.checkpoint import examine_checkpoint
from captioncrafter.stages.ailments.dataset import examine_dataset
from captioncrafter.stages.ailments.documents import read_object
from captioncrafter.stages.ailments.finding import BROKEN, Record
from captioncrafter.stages.ailments.machine import examine_machine, version_of
from captioncrafter.stages.ailments.run_checkpoints import examine_checkpoints
from captioncrafter.stages.ailments.run_features import examine_features
from captioncrafter.stages.run_lock import LOCK
from captioncrafter.stages.run_start import RESULT

_BRANCH = "With `captioncrafter train RECIPE --branch RUN` a new run starts from its weights."


def examine_run(record: Record, folder: Path) -> None:
    """Everything about the run in `folder`, and about what it was made of."""
    at_work = _is_at_work(folder)
    if at_work:
        record.note("at-work", folder, "a training is at work in it: looked at while it changes", "Look again later.")
    options = _options(record, folder)
    manifest = read_object(record, folder / runs.MANIFEST, mend="Put it back from a copy. " + _BRANCH)
    if manifest is None and not record.has("damaged-json"):
        record.error(
            "no-manifest", folder / runs.MANIFEST, "missing: it cannot be gone on with", "Put it back. " + _BRANCH
        )
    manifest = manifest or {}
    record.facts["result"] = manifest.get(RESULT) or "unfinished"
    if not manifest.get(RESULT) and not at_work:
        record.note("unfinished", folder, "its training has not ended", "captioncrafter train RECIPE --resume")
    if not at_work:
        _examine_left_behind(record, folder)
    _examine_log(record, folder, at_work=at_work)
    _examine_versions(record, folder, manifest)
    with record.attempt("torn-checkpoint", folder / runs.CHECKPOINTS, _BRANCH):
        examine_checkpoints(record, folder, manifest, at_work=at_work)
    _examine_adapter(record, folder, options)
    examine_predictions_of(record, folder / runs.PREDICTIONS)
    if options is not None:
        _examine_origins(record, folder, options, manifest)


def _is_at_work(folder: Path) -> bool:
    """Whether another process holds the run's lock."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _options(record: Record, folder: Path) -> recipe.Recipe | None:
    written = read_object(record, folder / runs.RECIPE, mend="Put it back from a copy. " + _BRANCH)
    if written is None:
        if not record.has("damaged-json"):
            record.error("no-recipe", folder / runs.RECIPE, "missing: nothing says what was done", "Put it back.")
        return None
    try:
        return recipe.build(written, source=runs.RECIPE)
    except CaptionCrafterError as error:
        for line in str(error).splitlines():
            record.error("recipe", folder / runs.RECIPE, line.removeprefix(f"{runs.RECIPE}: "), "Correct it.")
    return None


def _examine_left_behind(record: Record, folder: Path) -> None:
    """What a kill left of files that were being written."""
    for place in (folder, folder / runs.CHECKPOINTS, folder / runs.ADAPTER):
        entries = list(place.iterdir()) if place.is_dir() else []
        left = [entry.name for entry in entries if entry.name.startswith(".") and entry.suffix in (".tmp", ".old")]
        if left:
            record.warning(
                "left-behind",
                place,
                f"{counted(len(left), 'file')} that a killed process was writing",
                "Going on cleans up; --fix does it now: what is whole is put in its place, halves are removed.",
                details=tuple(left),
                repair=lambda place=place: _recovered(place),
            )


def _recovered(place: Path) -> str:
    storage.recover_all(place)
    return f"{place}: whole files put in their place, half-written ones removed"


def _examine_log(record: Record, folder: Path, *, at_work: bool) -> None:
    file = folder / runs.LOG
    if not file.is_file():
        return
    rows, damaged = [], []
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError:
            if number < len(lines) or not at_work:
                damaged.append(f"line {number}")
    if damaged:
        record.warning(
            "damaged-log",
            file,
            f"{counted(len(damaged), 'line cannot', 'lines cannot')} be read",
            "They are left out of curves.",
            details=tuple(damaged),
        )
    found = [row for row in rows if isinstance(row, dict) and row.get("kind") == "validation"]
    start = [row["CIDEr"] for row in found if row.get("step") == 0 and "CIDEr" in row]
    later = [row["CIDEr"] for row in found if row.get("step") and "CIDEr" in row]
    if start and later and max(later) < start[0]:
        record.warning(
            "no-better",
            file,
            f"the best adapter's CIDEr, {100 * max(later):.1f}, is below the base's, {100 * start[0]:.1f}",
            "A lower training.learning_rate is the first thing to try.",
        )
    best = [row for row in found if row.get("best") and "shuffled_CIDEr" in row]
    if best and best[-1]["CIDEr"] < 1.2 * best[-1]["shuffled_CIDEr"]:
        record.warning(
            "does-not-look",
            file,
            f"the best adapter's CIDEr is {100 * best[-1]['CIDEr']:.1f}, and "
            f"{100 * best[-1]['shuffled_CIDEr']:.1f} with images shuffled: its captions hardly depend on the image",
            "Look at the captions; more data, or tuning the Q-Former too (preset quality), are things to try.",
        )


def _examine_versions(record: Record, folder: Path, manifest: dict[str, Any]) -> None:
    made = manifest.get("versions")
    made = made if isinstance(made, dict) else {}
    other = {name: version_of(name) for name in made if name != "python"}
    different = [f"{name} {made[name]}, now {now}" for name, now in other.items() if now != made[name]]
    if different:
        record.note(
            "versions",
            folder / runs.MANIFEST,
            f"made with other versions of {counted(len(different), 'library', 'libraries')}: going on is exact with "
            "the same ones only",
            details=tuple(different),
        )


def _examine_adapter(record: Record, folder: Path, options: recipe.Recipe | None) -> None:
    place = folder / runs.ADAPTER
    if not place.is_dir():
        record.note("no-adapter", place, "no adapter yet: training has not come to a validation")
        return
    part = Record("adapter", str(place))
    examine_adapter(part, place)
    record.absorb(part, "adapter")
    prompt = part.facts.get("prompt")
    if options is not None and prompt is not None and prompt != options.model.prompt:
        record.error(
            "other-prompt",
            place / CAPTIONING,
            f'captions with the prompt "{prompt}", and was trained with "{options.model.prompt}"',
            f'Write "{options.model.prompt}" there.',
        )


def _examine_origins(record: Record, folder: Path, options: recipe.Recipe, manifest: dict[str, Any]) -> None:
    """Data, base and features may have changed since, under the same names."""
    found = base_on_disk(record, Named(options.model.base, options.model.revision, None))
    if found is not None and not record.has("base-absent"):
        part = Record("checkpoint", found.name)
        here = not found.on_hub or any(found.folder.glob("*.safetensors"))
        examine_checkpoint(part, found, weights_here=here)
        record.absorb(part, "base", lies_elsewhere=True)
        _compare_base(record, folder, found, manifest)
    if options.data.path is not None:
        part = Record("dataset", options.data.path)
        examine_dataset(
            part, storage.user_path(options.data.path), decode=False, limit=options.training.max_caption_tokens
        )
        record.absorb(part, "data", lies_elsewhere=True)
        if not any(finding.severity == "error" for finding in part.findings):
            for line in _changed_data(options, manifest):
                record.error(
                    "other-data",
                    options.data.path,
                    line,
                    "Put the data back to go on with the run or to compare its scores. " + _BRANCH,
                )
    if found is not None:
        with record.attempt("stale-features", "features", "Nothing to do: they are computed again when needed."):
            examine_features(record, options, manifest, found)
    part = Record("machine", "this machine")
    examine_machine(part, precision=options.model.precision, device=options.model.device)
    record.absorb(part, "machine")


def _compare_base(record: Record, folder: Path, found: checkpoint.Checkpoint, manifest: dict[str, Any]) -> None:
    before = manifest.get("checkpoint")
    before = before if isinstance(before, dict) else {}
    try:
        now = found.describe()
    except (CaptionCrafterError, *BROKEN):
        return
    if before.get("weights") and before["weights"] != now["weights"]:
        record.error(
            "base-mismatch",
            folder / runs.MANIFEST,
            f"the run was made over other weights than those of {found.name} ({found.folder}) now",
            "Put the base back that it was made over. " + _BRANCH,
        )


def _changed_data(options: recipe.Recipe, manifest: dict[str, Any]) -> Iterator[str]:
    before = manifest.get("data")
    if not isinstance(before, dict):
        return
    try:
        splits = load_splits(options.data)
    except (CaptionCrafterError, *BROKEN) as error:
        yield str(error)
        return
    for name in {**before, **splits}:
        old = before.get(name) if isinstance(before.get(name), dict) else None
        if old is None or name not in splits:
            yield f"the split {name} is {'new' if name in splits else 'gone'} since"
        elif (old.get("images"), old.get("fingerprint")) != (len(splits[name]), splits[name].fingerprint()):
            yield f"{name} has changed since: {old.get('images')} images then, {len(splits[name])} now"
