"""`captioncrafter compare`: whether captioners differ by more than the choice of images explains."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioncrafter import events, recipe, storage
from captioncrafter.errors import InputError, closest, counted
from captioncrafter.metrics import java
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import METRICS, Scorecard, averaged, score
from captioncrafter.metrics.significance import differences
from captioncrafter.metrics.vqa import ANSWER_METRICS, answers_scored
from captioncrafter.stages import protocol
from captioncrafter.stages.common_ground import find_common_ground
from captioncrafter.stages.extra_metrics import ExtraMetric, extra_metrics
from captioncrafter.stages.kept_scores import KeptScores, read_kept_scores
from captioncrafter.stages.systems import System, read_systems

_SURE_BELOW = 0.05
_FEWEST_IMAGES = 2


def compare(
    paths: Sequence[Path],
    options: recipe.Evaluation,
    *,
    references: Path | None = None,
    split: str | None = None,
    metrics: Sequence[str] = (),
    images: Path | None = None,
    allow_partial: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Every system of `paths` against the first, metric by metric, as `--out` holds it; values are fractions.

    Without `references` they are those of the runs' evaluated split, and without `options.document_frequencies` CIDEr
    is weighed as the runs' was. All `metrics` there are by default: CLIPScore and SPICE among them where `options` ask
    for them, or the runs kept them. `images` is a folder of the images, for metrics that look.
    Raises `InputError` for an unknown metric, `DataError` when the systems and references are not of the same images
    (unless `allow_partial`), or the runs not of the same data.
    """
    if out is not None and out.is_dir():
        raise InputError(f"{out}: a folder, and --out takes the file to write.")
    systems = read_systems(paths)
    ground = find_common_ground(systems, references, split)
    java.choose(options.java)
    java.start_in_background()
    models = [model for system in systems for model in system.models.values()]
    shared, partial = protocol.shared_images(
        {model.source: model.captions for model in models},
        ground.people,
        source=ground.told["references_from"],
        allow_partial=allow_partial,
        fewest=_FEWEST_IMAGES,
    )
    frequencies = options.document_frequencies or ground.corpus
    scored = References(
        {image: ground.people[image] for image in shared}, document_frequencies=protocol.corpus(frequencies)
    )
    extras = extra_metrics(options, scored, ground.pictures(shared, images), device="auto")
    kept = read_kept_scores(models, ground.people, but={extra.name for extra in extras})
    further = [metric for extra in extras for metric in extra.metrics] + kept.metrics
    wanted = _wanted(metrics, [*METRICS, *(ANSWER_METRICS if ground.answers else ()), *further])
    cards = {
        system.name: _cards(system, scored, extras, kept, answers=ground.answers, metrics=wanted) for system in systems
    }
    whole = {
        name: averaged(list(models.values())) if len(models) > 1 else models[None] for name, models in cards.items()
    }
    found = {
        "images": len(shared),
        **ground.told,
        **({"partial": partial} if partial else {}),
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
            **{extra.name: extra.described for extra in extras},
            **kept.described,
            "resamples": options.resamples,
            "seed": options.seed,
        },
    }
    if out is not None:
        storage.write_json(out, found)
    return found


def _wanted(asked: Sequence[str], known: Sequence[str]) -> list[str]:
    """The metrics of these names, however their letters are cased; all that are known when none is asked for."""
    by_letters = {name.casefold(): name for name in known}
    for name in asked:
        if name.casefold() not in by_letters:
            raise InputError(f'--metrics: no metric "{name}" here.{closest(name, known)} There are {", ".join(known)}.')
    return [by_letters[name.casefold()] for name in asked] or list(known)


def _cards(
    system: System,
    references: References,
    extras: Sequence[ExtraMetric],
    kept: KeptScores,
    *,
    answers: bool,
    metrics: Sequence[str],
) -> dict[int | None, Scorecard]:
    """The wanted metrics of each model of a system."""
    cards: dict[int | None, Scorecard] = {}
    for seed, model in system.models.items():
        predictions = {image: model.captions[image] for image in references.image_ids}
        card = score(predictions, references)
        if answers:
            card = card.beside(answers_scored(predictions, references.captions))
        for extra in extras:
            if set(extra.metrics) & set(metrics):
                card = card.beside(extra.score(predictions))
        cards[seed] = kept.beside(card, model).only(metrics)
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
            f"with {options.resamples} resamples no p-value of {counted(tests, 'test')} can be below {_SURE_BELOW} "
            f"once it is corrected: --resamples {int(tests / _SURE_BELOW)} or more can tell."
        )
    found = differences(baseline, dict(others), resamples=options.resamples, seed=options.seed)
    return {
        "differences": {
            name: {metric: asdict(one) for metric, one in by_metric.items()} for name, by_metric in found.items()
        },
        "correction": {"method": "Holm", "tests": tests},
    }
