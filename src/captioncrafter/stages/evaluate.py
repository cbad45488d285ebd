"""`captioncrafter evaluate`: captions against references, as coco-caption scores them; of files or of a whole run."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioncrafter import events, recipe, runs
from captioncrafter.data.caption_files import read_predictions, read_references
from captioncrafter.data.splits import SPLITS, CaptionedImages, load_splits
from captioncrafter.errors import DataError
from captioncrafter.generation.bulk import caption_dataset
from captioncrafter.generation.captioner import CAPTIONING, Captioner
from captioncrafter.metrics import diversity, java
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import Scorecard, cider_of, score, shuffled
from captioncrafter.metrics.vqa import answers_scored
from captioncrafter.model import checkpoint
from captioncrafter.report.card import write_card

_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Evaluated:
    """What `scores.json` and `image_scores.jsonl` hold of one captioner."""

    scores: dict[str, Any]
    image_scores: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Writes both files into `folder`."""
        runs.write_json(folder / runs.SCORES, self.scores)
        runs.write_jsonl(folder / runs.IMAGE_SCORES, self.image_scores)


def evaluate_files(
    predictions: Path,
    references: Path,
    *,
    split: str | None = None,
    allow_partial: bool = False,
    out: Path | None = None,
    options: recipe.Evaluation | None = None,
) -> Evaluated:
    """Scores a predictions file; with `out`, writes `scores.json` and `image_scores.jsonl` there.

    Raises `DataError` when predictions and references are not of the same images, unless `allow_partial`: then those
    they share are scored, and the scores say so.
    """
    given, people = read_predictions(predictions), read_references(references, split)
    shared = [image for image in people if image in given]
    partial = _partial(given, people, shared, predictions, references, allowed=allow_partial)
    found = evaluate(
        {image: given[image] for image in shared},
        {image: people[image] for image in shared},
        options or recipe.Evaluation(),
        protocol={"predictions": str(predictions), "references_from": str(references)}
        | ({"split": split} if split else {})
        | partial,
    )
    if out is not None:
        found.write(out)
    return found


def evaluate_run(
    path: Path, *, split: str | None = None, base: bool = False, device: str | None = None
) -> tuple[Evaluated, Evaluated | None]:
    """Captions a split with a run's adapter, from the images up as any user of the adapter would, and scores it.

    Predictions and scores are written to the run, and the adapter's card is rewritten with them; with `base` also
    those of its base model without the adapter, into the run's `base` folder. The split is test where there is one,
    else validation. Raises `DataError` when the run has no adapter or its data no such split.
    """
    run = runs.Run.open(path)
    options = recipe.build(run.recipe(), source=str(run.path / runs.RECIPE))
    if not run.adapter.is_dir():
        raise DataError(f"{path}: no adapter yet: its training has not come to a validation. Go on with --resume.")
    java.start_in_background()
    splits = load_splits(options.data)
    name = _choose(splits, split, options.data)
    images = splits[name]
    told = runs.read_json(run.adapter / CAPTIONING)
    tuned_on = checkpoint.find(told["base"], told["revision"])
    captioner = Captioner.load(adapter=run.adapter, device=device or options.model.device)
    references = References({image.image_id: image.captions for image in images})
    known = [text for image in splits["train"] for text in image.captions]
    answers = any(image.prompt is not None for image in images)
    protocol = {
        "split": name,
        "data": images.fingerprint(),
        "prompt": captioner.prompt.text,
        "decoding": captioner.decoding.model_dump(),
        "precision": str(captioner.model.dtype).removeprefix("torch."),
        "device": str(captioner.model.device),
    }

    kept = _base_of_the_same(run, protocol)

    def caption_and_score(what: str, folder: Path) -> Evaluated:
        predictions = caption_dataset(captioner, images, what=what)
        found = _evaluate(predictions, references, options.evaluation, protocol=protocol, known=known, answers=answers)
        rows = ({"image_id": image, "caption": caption} for image, caption in predictions.items())
        runs.write_jsonl(folder / runs.PREDICTIONS, rows)
        found.write(folder)
        return found

    tuned = caption_and_score(f"captions of {name}", run.path)
    before = None
    if base:
        with captioner.without_adapter():
            before = caption_and_score(f"captions of {name}, base", run.path / runs.BASE)
    write_card(
        run.adapter,
        tuned_on,
        options,
        tuned.scores["precision"],
        scores=tuned.scores,
        base_scores=before.scores if before else kept,
    )
    return tuned, before


def evaluate(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    options: recipe.Evaluation,
    *,
    protocol: Mapping[str, Any],
) -> Evaluated:
    """The seven metrics of `predictions` with all that belongs to them; `protocol` says where both came from."""
    return _evaluate(predictions, References(references), options, protocol=protocol, known=None, answers=False)


def _evaluate(
    predictions: Mapping[str, str],
    references: References,
    options: recipe.Evaluation,
    *,
    protocol: Mapping[str, Any],
    known: Collection[str] | None,
    answers: bool,
) -> Evaluated:
    """`known` are the captions trained on, where novelty is asked for; `answers` adds the metrics of answers."""
    card = score(predictions, references)
    if answers:
        card = card.beside(answers_scored(predictions, references.captions))
    counts = [len(captions) for captions in references.captions.values()]
    texts = list(predictions.values())
    novelty = {} if known is None else {"novel_captions": diversity.novel_captions(texts, known)}
    scores = {
        "images": len(references),
        "references_per_image": counts[0] if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}",
        "metrics": card.to_json(resamples=options.resamples, seed=options.seed),
        "grounding": _grounding(predictions, references, card, options),
        "diversity": diversity.describe(texts) | novelty,
        **protocol,
        "scorer": {
            **java.scorer_versions(),
            "document_frequencies": references.corpus_name,
            "bootstrap_resamples": options.resamples,
            "bootstrap_seed": options.seed,
        },
    }
    return Evaluated(scores, card.rows())


def _grounding(
    predictions: Mapping[str, str], references: References, card: Scorecard, options: recipe.Evaluation
) -> dict[str, float]:
    """CIDEr with the captions on their own images, and with the same captions dealt out to others."""
    if len(predictions) < 2:
        return {}
    return {
        "CIDEr": card.value("CIDEr"),
        "shuffled_CIDEr": cider_of(shuffled(predictions, seed=options.seed), references),
    }


def _partial(
    given: Mapping[str, str],
    people: Mapping[str, Sequence[str]],
    shared: Sequence[str],
    predictions: Path,
    references: Path,
    *,
    allowed: bool,
) -> dict[str, Any]:
    missing = [image for image in people if image not in given]
    extra = [image for image in given if image not in people]
    if not missing and not extra:
        return {}
    if not shared:
        raise DataError(
            f"{predictions} and {references} share no image: image ids are {_named(given)} in the one and "
            f"{_named(people)} in the other."
        )
    differ = f"{len(missing)} images have no prediction{_in_brackets(missing)}, {len(extra)} predictions have no "
    differ += f"reference{_in_brackets(extra)}"
    if not allowed:
        raise DataError(
            f"{predictions} and {references} are not of the same images: {differ}. Scores of a part compare with no "
            f"published ones; --allow-partial scores the {len(shared)} images they share all the same."
        )
    events.warn(f"scored on the {len(shared)} images that both files share only: {differ}")
    return {"partial": {"images_without_prediction": len(missing), "predictions_without_reference": len(extra)}}


def _named(images: Iterable[str]) -> str:
    names = list(images)
    return ", ".join(names[:_NAMED_AT_MOST]) + (" …" if len(names) > _NAMED_AT_MOST else "")


def _in_brackets(images: Sequence[str]) -> str:
    return f" ({_named(images)})" if images else ""


def _base_of_the_same(run: runs.Run, protocol: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was measured of the base before, if on the same images in the same way; else it goes, and that is said.

    It would stand beside scores that it does not compare with.
    """
    file = run.path / runs.BASE / runs.SCORES
    if not file.is_file():
        return None
    scores = runs.read_json(file)
    if all(scores.get(key) == value for key, value in protocol.items()):
        return scores
    run.drop_base()
    events.say(f"{run.path / runs.BASE}: scores of another evaluation; removed (--base takes them again)")
    return None


def _choose(splits: Mapping[str, CaptionedImages], split: str | None, data: recipe.Data) -> str:
    name = split or next(name for name in reversed(SPLITS) if name in splits)
    if name not in splits:
        there = ", ".join(f"{each} ({len(images)} images)" for each, images in splits.items())
        raise DataError(f"{data.path or 'scenes'}: has no images in the {name} split; it has {there}.")
    return name
