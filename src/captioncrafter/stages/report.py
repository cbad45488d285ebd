"""`captioncrafter report`: a run's page, with its base and other runs beside it, rebuilt from what is on disk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from captioncrafter import events, recipe, runs, storage
from captioncrafter.data.ahead import computed_ahead
from captioncrafter.data.splits import CaptionedImage, load_splits
from captioncrafter.errors import DataError
from captioncrafter.report.page import ReportData, System, render
from captioncrafter.report.thumbnails import thumbnail
from captioncrafter.stages.other_pictures import other_pictures

_BASE = "base"


def report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page about the first run (into the first of `paths`, unless `out` names a file) and gives the file.

    Its base stands beside it where that was scored, then the other runs. A folder of one recipe's seeds stands for all
    its runs. Raises `DataError` when a folder is no run, or when a run was not evaluated. Where the run's data is no
    longer there, the page has no images and no references, and a line says so.
    """
    folders = [run for path in paths for run in _runs_in(path)]
    first, *others = [_evaluated(folder) for folder in folders]
    name, *names = _names(folders)
    subject = _trained(first, name)
    base = [_system(first.path / runs.BASE, _BASE)] if (first.path / runs.BASE / runs.PREDICTIONS).is_file() else []
    beside = [_beside(other, each, subject) for other, each in zip(others, names, strict=True)]
    options = recipe.build(first.recipe(), source=str(first.path / runs.RECIPE))
    images = _images(options, subject)
    page = render(
        ReportData(
            title=f"{name}: captions by {options.model.base}",
            summary=_summary(options, first.manifest()),
            systems=[subject, *base, *beside],
            references={image.image_id: image.captions for image in images},
            thumbnails=_thumbnails(images),
            prompts={image.image_id: image.prompt for image in images if image.prompt is not None},
            pictures=other_pictures(first, {"tuned": subject.name, "base": _BASE}),
            recipe=first.recipe(),
            manifest=first.manifest(),
        )
    )
    target = out or paths[0] / runs.REPORT
    storage.write_text(target, page)
    events.say(f"report: {target}")
    return target


def _runs_in(path: Path) -> list[Path]:
    """The run in `path`, or the runs of every seed where `train --seeds` made the folder."""
    if (path / runs.RECIPE).is_file() or not (path / runs.SEEDS).is_file():
        return [path]
    return [path / f"seed-{seed}" for seed in storage.read_json(path / runs.SEEDS)["runs"]]


def _evaluated(path: Path) -> runs.Run:
    run = runs.Run.open(path)
    if not (run.path / runs.PREDICTIONS).is_file():
        raise DataError(f"{run.path}: nothing to show yet. `captioncrafter evaluate --run {run.path}` scores it.")
    return run


def _names(paths: Sequence[Path]) -> list[str]:
    """What the page calls the runs: the folder's name, with as much of the path before it as tells them apart."""
    parts = [path.resolve().parts for path in paths]
    candidates = (["/".join(one[-length:]) for one in parts] for length in range(1, max(map(len, parts)) + 1))
    different = (names for names in candidates if len({*names, _BASE}) > len(names))
    return next(different, [str(path) for path in paths])


def _system(folder: Path, name: str) -> System:
    predictions = {row["image_id"]: row["caption"] for row in storage.read_jsonl(folder / runs.PREDICTIONS)}
    rows = storage.read_jsonl(folder / runs.IMAGE_SCORES)
    by_image = {row["image_id"]: {key: value for key, value in row.items() if key != "image_id"} for row in rows}
    return System(name, predictions, storage.read_json(folder / runs.SCORES), by_image)


def _trained(run: runs.Run, name: str) -> System:
    """A run's captions, with how it was trained: the recipe, its seed apart, and the log."""
    trained_as = run.recipe()
    seed = trained_as.pop("seed", None)
    trained = json.dumps(trained_as, sort_keys=True)
    return replace(_system(run.path, name), training=trained, seed=seed, log=run.log())


def _beside(other: runs.Run, name: str, subject: System) -> System:
    """Another run's captions of the same images; raises `DataError` when they are of others."""
    system = _trained(other, name)
    if system.predictions.keys() != subject.predictions.keys():
        raise DataError(
            f"{other.path}: was evaluated on other images than {subject.name} ({len(system.predictions)} and "
            f"{len(subject.predictions)}), so their scores do not compare. Evaluate both on the same split."
        )
    if system.scores.get("data") != subject.scores.get("data"):
        raise DataError(
            f"{other.path}: was evaluated on images of the same names as {subject.name}, but the images or their "
            "references differ, so their scores do not compare. Evaluate both on the same data."
        )
    return system


def _summary(options: recipe.Recipe, manifest: Mapping[str, Any]) -> str:
    images = manifest.get("data", {}).get("train", {}).get("images")
    amount = f"{images:,} " if images else ""
    what = f"images of {Path(options.data.path).name}" if options.data.path else "drawn scenes"
    return (
        f"{options.model.base}, fine-tuned on {amount}{what} with LoRA of rank {options.lora.rank} "
        f"on {options.lora.in_words}."
    )


def _images(options: recipe.Recipe, subject: System) -> list[CaptionedImage]:
    """The images that the subject captioned; none when the run's data is no longer there, or is not what it was."""
    name = subject.scores.get("split", "validation")
    try:
        split = load_splits(options.data).get(name)
    except DataError as error:
        events.warn(f"the page has no images and no references: {error}")
        return []
    if split is None or split.fingerprint() != subject.scores.get("data", split.fingerprint()):
        events.warn(
            f"the page has no images and no references: the {name} split of {options.data.path or 'the scenes'} is no "
            "longer what was evaluated. `captioncrafter evaluate --run` scores it anew."
        )
        return []
    return [image for image in split if image.image_id in subject.predictions]


def _thumbnails(images: Sequence[CaptionedImage]) -> Mapping[str, bytes]:
    return dict(computed_ahead(lambda image: (image.image_id, thumbnail(image.decode())), images))
