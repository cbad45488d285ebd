"""`captioncrafter evaluate`: captions against references, as coco-caption scores them; of files or of a whole run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioncrafter import __version__, events, recipe, runs, storage
from captioncrafter.data.caption_files import dataset_split, read_predictions, read_references
from captioncrafter.data.pictures import Picture, pictures_given, pictures_of
from captioncrafter.data.splits import SPLITS, CaptionedImages, load_splits
from captioncrafter.errors import DataError, counted
from captioncrafter.generation.bulk import caption_dataset
from captioncrafter.generation.captioner import CAPTIONING, Captioner
from captioncrafter.generation.ledger import ledger_of
from captioncrafter.metrics import diversity, java
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import Scorecard, cider_of, score, shuffled
from captioncrafter.metrics.vqa import answers_scored
from captioncrafter.model import checkpoint
from captioncrafter.report.card import write_card
from captioncrafter.stages.extra_metrics import ExtraMetric, extra_metrics
from captioncrafter.stages.protocol import Trained, corpus, describe_corpus, shared_images


@dataclass(frozen=True)
class Evaluated:
    """What `scores.json` and `image_scores.jsonl` hold of one captioner."""

    scores: dict[str, Any]
    image_scores: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Writes both files into `folder`."""
        storage.write_json(folder / runs.SCORES, self.scores)
        storage.write_jsonl(folder / runs.IMAGE_SCORES, self.image_scores)


def evaluate_files(
    predictions: Path,
    references: Path,
    *,
    split: str | None = None,
    trained_on: Path | None = None,
    images: Path | None = None,
    allow_partial: bool = False,
    out: Path | None = None,
    options: recipe.Evaluation | None = None,
) -> Evaluated:
    """Scores a predictions file; with `out`, writes `scores.json` and `image_scores.jsonl` there.

    `trained_on` is a dataset folder or a file of captions: then novelty is measured, and images seen in training are
    told. `images` is a folder of the images, for metrics that look. Raises `DataError` when predictions and references
    are not of the same images, unless `allow_partial`: then those they share are scored, and the scores say so.
    """
    options = options or recipe.Evaluation()
    name = dataset_split(references, split)[0] if references.is_dir() else None
    given, people = read_predictions(predictions), read_references(references, name or split)
    shared, partial = shared_images({predictions: given}, people, source=references, allow_partial=allow_partial)
    protocol: dict[str, Any] = {"predictions": str(predictions), "references_from": str(references)}
    protocol |= {"partial": partial[str(predictions)]} if partial else {}
    protocol |= ({"split": name} if name else {}) | _origin(predictions)
    java.choose(options.java)
    yardstick = Yardstick.of(
        {image: people[image] for image in shared},
        options,
        pictures=pictures_given(shared, references, name, images),
        trained=Trained.read(trained_on) if trained_on is not None else None,
        device="auto",
    )
    found = yardstick.evaluate({image: given[image] for image in shared}, protocol)
    if out is not None:
        found.write(out)
    return found


def evaluate_run(
    path: Path,
    *,
    split: str | None = None,
    base: bool = False,
    device: str | None = None,
    options: recipe.Evaluation | None = None,
) -> tuple[Evaluated, Evaluated | None]:
    """Captions a split with a run's adapter, from the images up as any user of the adapter would, and scores it.

    Predictions and scores are written to the run, and the adapter's card is rewritten with them; with `base` also
    those of its base model without the adapter, into the run's `base` folder. The split is test where there is one,
    else validation; what `options` state stands in place of the recipe's. Raises `DataError` when the run has no
    adapter or its data no such split.
    """
    run = runs.Run.open(path)
    whole = recipe.build(run.recipe(), source=str(run.path / runs.RECIPE))
    if not run.adapter.is_dir():
        raise DataError(f"{path}: no adapter yet: its training has not come to a validation. Go on with --resume.")
    evaluation = _stated_over(whole.evaluation, options)
    java.choose(evaluation.java)
    java.start_in_background()
    splits = load_splits(whole.data)
    name = _choose(splits, split, whole.data)
    images = splits[name]
    told = storage.read_json(run.adapter / CAPTIONING)
    tuned_on = checkpoint.find(told["base"], told["revision"])
    yardstick = Yardstick.of(
        {image.image_id: image.captions for image in images},
        evaluation,
        pictures=pictures_of(images),
        trained=Trained.of_run(run, splits["train"]),
        device=device or whole.model.device,
        answers=any(image.prompt is not None for image in images),
    )
    captioner = Captioner.load(adapter=run.adapter, device=device or whole.model.device)
    protocol = {
        "split": name,
        "data": images.fingerprint(),
        "prompt": captioner.prompt.text,
        "decoding": captioner.decoding.model_dump(),
        "precision": str(captioner.model.dtype).removeprefix("torch."),
        "device": str(captioner.model.device),
    }
    kept = _base_of_the_same(run, protocol, yardstick.references)

    def caption_and_score(what: str, folder: Path) -> Evaluated:
        predictions = caption_dataset(captioner, images, what=what)
        found = yardstick.evaluate(predictions, protocol)
        rows = ({"image_id": image, "caption": caption} for image, caption in predictions.items())
        storage.write_jsonl(folder / runs.PREDICTIONS, rows)
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
        whole,
        tuned.scores["precision"],
        scores=tuned.scores,
        base_scores=before.scores if before else kept,
    )
    return tuned, before


@dataclass(frozen=True)
class Yardstick:
    """What captions are held against: references, further metrics, training; `answers` adds the metrics of answers."""

    references: References
    options: recipe.Evaluation
    extras: Sequence[ExtraMetric]
    trained: Trained | None
    seen: Mapping[str, Any]
    answers: bool

    @classmethod
    def of(
        cls,
        captions: Mapping[str, Sequence[str]],
        options: recipe.Evaluation,
        *,
        pictures: Mapping[str, Picture] | None,
        trained: Trained | None,
        device: str,
        answers: bool = False,
    ) -> "Yardstick":
        """Loads what is asked for and warns of images seen in training: all before the first caption."""
        references = References.kept(captions, document_frequencies=corpus(options.document_frequencies))
        extras = extra_metrics(options, references, pictures, device=device)
        seen = {} if trained is None else {"seen_in_training": trained.seen(captions, pictures)}
        return cls(references, options, extras, trained, seen, answers)

    def evaluate(self, predictions: Mapping[str, str], protocol: Mapping[str, Any]) -> Evaluated:
        """All metrics of `predictions` with all that belongs to them; `protocol` says where they came from."""
        references, options = self.references, self.options
        card = score(predictions, references)
        if self.answers:
            card = card.beside(answers_scored(predictions, references.captions))
        for extra in self.extras:
            card = card.beside(extra.score(predictions))
        counts = [len(captions) for captions in references.captions.values()]
        scores = {
            "images": len(references),
            "references": sum(counts),
            "references_per_image": counts[0] if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}",
            "references_hash": references.fingerprint,
            "metrics": card.to_json(resamples=options.resamples, seed=options.seed),
            "grounding": _grounding(predictions, references, card, options),
            "diversity": _diversity(list(predictions.values()), self.trained),
            **protocol,
            **self.seen,
            "scorer": {
                "captioncrafter": __version__,
                **java.scorer_versions(),
                **describe_corpus(references, options.document_frequencies),
                **{extra.name: extra.described for extra in self.extras},
                "bootstrap_resamples": options.resamples,
                "bootstrap_seed": options.seed,
            },
        }
        return Evaluated(scores, card.rows())


def _diversity(texts: Sequence[str], trained: Trained | None) -> dict[str, float | int]:
    novelty = {} if trained is None else {"novel_captions": diversity.novel_captions(texts, trained.captions)}
    return diversity.describe(texts) | novelty


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


def _origin(predictions: Path) -> dict[str, Any]:
    """What captioned, where `captioncrafter caption` kept that beside its file: base, adapter, prompt, decoding."""
    ledger = ledger_of(predictions)
    told = storage.read_json(ledger) if ledger.is_file() else {}
    return {"origin": told["origin"]} if isinstance(told, dict) and "origin" in told else {}


def _stated_over(asked: recipe.Evaluation, stated: recipe.Evaluation | None) -> recipe.Evaluation:
    """The recipe's options, those that were stated in their place; another CLIP brings its own revision or none."""
    if stated is None:
        return asked
    changes = {name: getattr(stated, name) for name in stated.model_fields_set}
    if "clip_model" in changes:
        changes.setdefault("clip_revision", None)
    return asked.model_copy(update=changes)


def _base_of_the_same(run: runs.Run, protocol: Mapping[str, Any], references: References) -> Mapping[str, Any] | None:
    """What was measured of the base before, if on the same images in the same way; else it goes, and that is said.

    It would stand beside scores that it does not compare with.
    """
    file = run.path / runs.BASE / runs.SCORES
    if not file.is_file():
        return None
    scores = storage.read_json(file)
    corpus_then = scores.get("scorer", {}).get("document_frequencies_hash")
    if corpus_then == references.corpus.fingerprint and all(scores.get(key) == protocol[key] for key in protocol):
        return scores
    run.drop_base()
    events.say(f"{run.path / runs.BASE}: scores of another evaluation; removed (--base takes them again)")
    return None


def _choose(splits: Mapping[str, CaptionedImages], split: str | None, data: recipe.Data) -> str:
    name = split or next(name for name in reversed(SPLITS) if name in splits)
    if name not in splits:
        there = ", ".join(f"{each} ({counted(len(images), 'image')})" for each, images in splits.items())
        raise DataError(f"{data.path or 'scenes'}: has no images in the {name} split; it has {there}.")
    return name
