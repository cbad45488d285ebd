"""What `compare` compares: captions read from a predictions file, a run, its base, or the runs of several seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioncrafter import recipe, runs, storage
from captioncrafter.data.caption_files import read_predictions
from captioncrafter.errors import DataError, InputError

_OWN_FREQUENCIES = "evaluated references"
"""What `scores.json` says where CIDEr was weighed by the references themselves."""


@dataclass(frozen=True)
class Evaluated:
    """A run's evaluation, as its folder holds it: the run's recipe, and what it was captioned of.

    `data` is the fingerprint of the images and references, `split` their split; `corpus` the captions whose document
    frequencies weighed CIDEr, None for the references' own. `references` is the hash of what it was scored against,
    `scorer` what `scores.json` says of who scored.
    """

    folder: Path
    options: recipe.Recipe
    split: str
    data: str | None
    corpus: str | None
    references: str | None
    scorer: Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """The captions that one model wrote, and where they were read; `evaluated` is None for a file on its own."""

    source: Path
    captions: Mapping[str, str]
    evaluated: Evaluated | None


@dataclass(frozen=True)
class System:
    """One side of a comparison: one model, or those that several training seeds made of one recipe, by seed."""

    name: str
    path: Path
    models: Mapping[int | None, Model]

    @property
    def seeds(self) -> list[int]:
        """The training seeds; none for a single model."""
        return [seed for seed in self.models if seed is not None]


def read_systems(paths: Sequence[Path]) -> list[System]:
    """The systems in `paths`, each under a name that no other has.

    Raises `InputError` for fewer than two or one given twice, `DataError` when a path holds no predictions.
    """
    if len(paths) < 2:
        raise InputError("one system compares with nothing: give two predictions files or run folders, or more.")
    resolved = [path.resolve() for path in paths]
    twice = [path for place, path in enumerate(paths) if resolved[place] in resolved[:place]]
    if twice:
        raise InputError(f"{twice[0]}: given twice, and a system does not differ from itself. Leave one out.")
    return [System(name, path, _models(path)) for name, path in zip(_names(paths), paths, strict=True)]


def _models(path: Path) -> dict[int | None, Model]:
    if not path.is_dir():
        return {None: Model(path, read_predictions(path), None)}
    if (path / runs.RECIPE).is_file():
        return {None: _of_run(path, path)}
    if (path / runs.SEEDS).is_file():
        folders = {int(seed): path / f"seed-{seed}" for seed in storage.read_json(path / runs.SEEDS)["runs"]}
        return {seed: _of_run(folder, folder) for seed, folder in folders.items()}
    if path.name == runs.BASE and (path.parent / runs.RECIPE).is_file():
        return {None: _of_run(path.parent, path)}
    raise DataError(
        f"{path}: neither a run folder ({runs.RECIPE} is missing) nor one of several seeds ({runs.SEEDS} is missing). "
        "compare takes predictions files, runs, RUN/base, and what `captioncrafter train --seeds` made."
    )


def _of_run(run: Path, folder: Path) -> Model:
    """What was evaluated of `run` into `folder`: the run's own, or its base's."""
    if not (folder / runs.PREDICTIONS).is_file() or not (folder / runs.SCORES).is_file():
        base = " --base" if folder != run else ""
        raise DataError(
            f"{folder}: nothing to compare yet. `captioncrafter evaluate --run {run}{base}` captions a split."
        )
    scores: dict[str, Any] = storage.read_json(folder / runs.SCORES)
    if "split" not in scores:
        raise DataError(
            f"{folder / runs.SCORES}: names no split, so that the run's references are not known. "
            f"`captioncrafter evaluate --run {run}` writes it anew."
        )
    options = recipe.build(runs.Run.open(run).recipe(), source=str(run / runs.RECIPE))
    scorer = scores.get("scorer", {})
    weighed_by = scorer.get("document_frequencies", _OWN_FREQUENCIES)
    corpus = None if weighed_by == _OWN_FREQUENCIES else weighed_by
    against = scores.get("references_hash")
    evaluated = Evaluated(folder, options, scores["split"], scores.get("data"), corpus, against, scorer)
    return Model(folder / runs.PREDICTIONS, read_predictions(folder / runs.PREDICTIONS), evaluated)


def _names(paths: Sequence[Path]) -> list[str]:
    """What tables call the systems: name without suffix, with as much of the path before it as tells them apart."""
    parts = [(*path.resolve().parts[:-1], path.resolve().stem if path.is_file() else path.name) for path in paths]
    candidates = (["/".join(one[-length:]) for one in parts] for length in range(1, max(map(len, parts)) + 1))
    different = (names for names in candidates if len(set(names)) == len(names))
    return next(different, [str(path) for path in paths])
