"""`captioncrafter compare`: whether captioners differ by more than the choice of images explains."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioncrafter import events, recipe, runs
from captioncrafter.data.caption_files import named, read_references
from captioncrafter.data.splits import CaptionedImage, load_splits
from captioncrafter.errors import DataError, InputError, closest
from captioncrafter.metrics import java
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import METRICS, Scorecard, averaged, score
from captioncrafter.metrics.significance import differences
from captioncrafter.metrics.vqa import ANSWER_METRICS, answers_scored
from captioncrafter.stages import protocol
from captioncrafter.stages.systems import Evaluated, Model, System, read_systems

_SURE_BELOW = 0.05


def compare(
    paths: Sequence[Path],
    options: recipe.Evaluation,
    *,
    references: Path | None = None,
    split: str | None = None,
    metrics: Sequence[str] = (),
    allow_partial: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Every system of `paths` against the first, metric by metric, as `--out` holds it; values are fractions.

    Without `references` they are those of the runs' evaluated split, and without `options.document_frequencies` CIDEr
    is weighed as the runs' was. All `metrics` there are by default.
    Raises `InputError` for an unknown metric, `DataError` when the systems and references are not of the same images
    (unless `allow_partial`), or the runs not of the same data.
    """
    if out is not None and out.is_dir():
        raise InputError(f"{out}: a folder, and --out takes the file to write.")
    systems = read_systems(paths)
    people, answers, origin = _references(systems, references, split)
    wanted = _wanted(metrics, [*METRICS, *(ANSWER_METRICS if answers else ())])
    java.choose(options.java)
    java.start_in_background()
    shared, partial = _shared_images(systems, people, origin["references_from"], allow_partial=allow_partial)
    frequencies = options.document_frequencies or _frequencies_of(systems)
    scored = References({image: people[image] for image in shared}, document_frequencies=protocol.corpus(frequencies))
    cards = {system.name: _cards(system, scored, answers, wanted) for system in systems}
    whole = {
        name: averaged(list(models.values())) if len(models) > 1 else models[None] for name, models in cards.items()
    }
    found = {
        "images": len(shared),
        **origin,
        **partial,
        "baseline": systems[0].name,
        "systems": {
            system.name: {
                "predictions": str(system.path),
                "metrics": whole[system.name].to_json(resamples=options.resamples, seed=options.seed),
                **_over_seeds(system, cards[system.name]),
            }
            for system in systems
        },
        **_against_the_first(whole, options),
        "scorer": {
            **java.scorer_versions(),
            **protocol.describe_corpus(scored, frequencies),
            "resamples": options.resamples,
            "seed": options.seed,
        },
    }
    if out is not None:
        runs.write_json(out, found)
    return found


def _wanted(asked: Sequence[str], known: Sequence[str]) -> list[str]:
    """The metrics of these names, however their letters are cased; all that are known when none is asked for."""
    by_letters = {name.casefold(): name for name in known}
    for name in asked:
        if name.casefold() not in by_letters:
            raise InputError(f'--metrics: no metric "{name}" here.{closest(name, known)} There are {", ".join(known)}.')
    return [by_letters[name.casefold()] for name in asked] or list(known)


def _references(
    systems: Sequence[System], path: Path | None, split: str | None
) -> tuple[Mapping[str, Sequence[str]], bool, dict[str, Any]]:
    """What people wrote of each image, whether they are answers to questions, and where they come from."""
    runs_of_them = _evaluated(systems)
    if path is not None:
        _tell_of_other_data(runs_of_them)
        told = {"references_from": str(path)} | ({"split": split} if split else {})
        return read_references(path, split), False, told
    if not runs_of_them:
        raise InputError("predictions files bring no references: give them with --references REFS.")
    first, *others = runs_of_them
    for other in others:
        _refuse_other_data(first, other)
    if split not in (None, first.split):
        raise InputError(
            f"--split {split}: {first.folder} was evaluated on {first.split}. "
            f"`captioncrafter evaluate --run RUN --split {split}` captions the other first."
        )
    images = _images(first)
    told = {"references_from": first.options.data.path or "scenes", "split": first.split, "data": first.data}
    answers = any(image.prompt is not None for image in images)
    return {image.image_id: image.captions for image in images}, answers, told


def _evaluated(systems: Sequence[System]) -> list[Evaluated]:
    """The evaluations of those systems that are runs."""
    return [model.evaluated for system in systems for model in system.models.values() if model.evaluated]


def _frequencies_of(systems: Sequence[System]) -> str | None:
    """The captions whose document frequencies weighed the runs' CIDEr; None for the evaluated references' own."""
    corpora = {one.corpus for one in _evaluated(systems)}
    if len(corpora) > 1:
        events.warn(
            "the runs' CIDEr was weighed by the document frequencies of different captions; here it is by those of the "
            "evaluated references. --document-frequencies takes others."
        )
    return corpora.pop() if len(corpora) == 1 else None


def _refuse_other_data(first: Evaluated, other: Evaluated) -> None:
    if other.split != first.split:
        raise DataError(
            f"{first.folder} was evaluated on {first.split}, {other.folder} on {other.split}. "
            f"`captioncrafter evaluate --run RUN --split {first.split}` captions the same images."
        )
    if other.data != first.data:
        raise DataError(
            f"{first.folder} and {other.folder} were evaluated on the {first.split} splits of different data: images "
            "or captions differ. Evaluate both on the same, or give --references to compare them by image ids alone."
        )


def _tell_of_other_data(evaluated: Sequence[Evaluated]) -> None:
    if len({one.data for one in evaluated}) > 1:
        events.warn("the runs were evaluated on different data; they are compared by image ids alone")


def _images(evaluated: Evaluated) -> list[CaptionedImage]:
    """The images that were captioned; raises `DataError` when the run's data is no longer what it was."""
    place = evaluated.options.data.path or "the scenes"
    images = load_splits(evaluated.options.data).get(evaluated.split)
    if images is None or evaluated.data not in (None, images.fingerprint()):
        raise DataError(
            f"{evaluated.folder}: the {evaluated.split} split of {place} is no longer what was evaluated. "
            "`captioncrafter evaluate --run` captions it anew; --references takes references from elsewhere."
        )
    return list(images)


def _shared_images(
    systems: Sequence[System], people: Mapping[str, Sequence[str]], source: str, *, allow_partial: bool
) -> tuple[list[str], dict[str, Any]]:
    """The images that references and all systems have, and what the result says where that is a part."""
    models = [model for system in systems for model in system.models.values()]
    missing = {model.source: [image for image in people if image not in model.captions] for model in models}
    extra = {model.source: [image for image in model.captions if image not in people] for model in models}
    shared = [image for image in people if all(image in model.captions for model in models)]
    differ = [file for file in missing if missing[file] or extra[file]]
    lines = [_line(file, missing[file], extra[file]) for file in differ]
    if len(shared) < 2:
        told = [*lines, f"image ids are {named(people)} in {source} and {_ids(models)}"]
        raise DataError("\n".join([f"a comparison takes two images or more, and all share {len(shared)}:", *told]))
    if not differ:
        return shared, {}
    if not allow_partial:
        way_out = f"--allow-partial compares on the {len(shared)} images that all share."
        raise DataError("\n".join([f"systems and references ({source}) are not of the same images:", *lines, way_out]))
    events.warn("\n".join([f"compared on the {len(shared)} images that all share only:", *lines]))
    counts = {
        str(file): {"images_without_prediction": len(missing[file]), "predictions_without_reference": len(extra[file])}
        for file in differ
    }
    return shared, {"partial": counts}


def _line(file: Path, missing: Sequence[str], extra: Sequence[str]) -> str:
    parts = ((missing, "images have no prediction"), (extra, "predictions have no reference"))
    return f"  {file}: " + ", ".join(f"{len(some)} {what} ({named(some)})" for some, what in parts if some)


def _ids(models: Sequence[Model]) -> str:
    return ", ".join(f"{named(model.captions)} in {model.source}" for model in models)


def _cards(
    system: System, references: References, answers: bool, metrics: Sequence[str]
) -> dict[int | None, Scorecard]:
    """The wanted metrics of each model of a system."""
    cards: dict[int | None, Scorecard] = {}
    for seed, model in system.models.items():
        predictions = {image: model.captions[image] for image in references.image_ids}
        card = score(predictions, references)
        if answers:
            card = card.beside(answers_scored(predictions, references.captions))
        cards[seed] = card.only(metrics)
    return cards


def _over_seeds(system: System, cards: Mapping[int | None, Scorecard]) -> dict[str, Any]:
    """Mean and sample deviation over training seeds: chance in training, which no test over images knows of."""
    if not system.seeds:
        return {}
    metrics = next(iter(cards.values())).metrics
    values = {metric: {seed: cards[seed].value(metric) for seed in system.seeds} for metric in metrics}
    return {
        "training_seeds": {
            metric: {
                "mean": statistics.mean(by_seed.values()),
                "sd": statistics.stdev(by_seed.values()),
                "runs": by_seed,
            }
            for metric, by_seed in values.items()
        }
    }


def _against_the_first(cards: Mapping[str, Scorecard], options: recipe.Evaluation) -> dict[str, Any]:
    """The tests of every other system against the first, and of what family they are."""
    (_, baseline), *others = cards.items()
    tests = len(others) * len(baseline.metrics)
    if tests / (options.resamples + 1) >= _SURE_BELOW:
        events.warn(
            f"with {options.resamples} resamples no p-value of {tests} tests can be below {_SURE_BELOW} once it is "
            f"corrected: --resamples {int(tests / _SURE_BELOW)} or more can tell."
        )
    found = differences(baseline, dict(others), resamples=options.resamples, seed=options.seed)
    return {
        "differences": {
            name: {metric: asdict(one) for metric, one in by_metric.items()} for name, by_metric in found.items()
        },
        "correction": {"method": "Holm", "tests": tests},
    }
