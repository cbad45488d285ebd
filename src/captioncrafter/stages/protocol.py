"""What makes scores comparable: the same images on both sides, the corpus behind CIDEr, what training had seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioncrafter import events, recipe, runs, storage
from captioncrafter.data.caption_files import dataset_split, named, read_references
from captioncrafter.data.dataset import image_hashes
from captioncrafter.data.pictures import Picture
from captioncrafter.data.splits import CaptionedImages, load_splits
from captioncrafter.errors import DataError, InputError, counted
from captioncrafter.metrics.references import References

_LISTED_AT_MOST = 20
_TRAIN = "train"


@dataclass(frozen=True)
class Trained:
    """What a model was trained on: the captions, and each image's hash where the images themselves are at hand."""

    source: str
    captions: Sequence[str]
    image_ids: frozenset[str]
    contents: frozenset[str] | None

    @classmethod
    def of_run(cls, run: runs.Run, images: CaptionedImages) -> "Trained":
        """Everything that a run's adapter saw: its own training `images`, and those of the runs that it branched off.

        A run or its data that is no longer there is named in a warning.
        """
        found = cls.of_images(images, _source(run))
        seen = {run.path.absolute()}
        while (parent := run.manifest().get("branched_from")) and Path(parent) not in seen:
            seen.add(Path(parent))
            try:
                run = runs.Run.open(parent)
                older = load_splits(recipe.build(run.recipe(), source=str(run.path / runs.RECIPE)).data)["train"]
            except InputError as error:
                events.warn(f"what the run branched off was trained on is not known here, so not looked for: {error}")
                break
            found = found.and_also(cls.of_images(older, _source(run)))
        return found

    @classmethod
    def of_images(cls, images: CaptionedImages, source: str) -> "Trained":
        """A training split."""
        rows = list(images)
        texts = [text for image in rows for text in image.captions]
        return cls(source, texts, frozenset(row.image_id for row in rows), frozenset(row.content for row in rows))

    @classmethod
    def read(cls, path: Path) -> "Trained":
        """The training split of a dataset folder, or a file of captions, which holds no images."""
        people = read_references(path, _TRAIN if path.is_dir() else None)
        contents = frozenset(image_hashes(dataset_split(path, _TRAIN)[1])) if path.is_dir() else None
        texts = [text for captions in people.values() for text in captions]
        return cls(str(path), texts, frozenset(people), contents)

    def and_also(self, other: "Trained") -> "Trained":
        """Both together; the images themselves are known where they are of both."""
        both = self.contents is not None and other.contents is not None
        return Trained(
            self.source if self.source == other.source else f"{self.source}, {other.source}",
            [*self.captions, *other.captions],
            self.image_ids | other.image_ids,
            (self.contents or frozenset()) | (other.contents or frozenset()) if both else None,
        )

    def seen(self, image_ids: Iterable[str], pictures: Mapping[str, Picture] | None) -> dict[str, Any]:
        """Which evaluated images were trained on, for `scores.json`; a warning where there are any.

        Images are compared byte for byte where both sides have them, else by their ids.
        """
        ids = list(image_ids)
        if self.contents is not None and pictures is not None:
            told, found = "image bytes", [image for image in ids if pictures[image].content() in self.contents]
        else:
            told, found = "image ids", [image for image in ids if image in self.image_ids]
        if found:
            events.warn(
                f"{len(found)} of the {len(ids)} evaluated images were in training ({self.source}), by their {told}: "
                f"{named(found)}. Scores on them say nothing about new images."
            )
        listed = found[:_LISTED_AT_MOST]
        return {
            "images": len(found),
            "image_ids": listed,
            "training_images": len(self.image_ids),
            "training_data": self.source,
            "compared_by": told,
        }


def _source(run: runs.Run) -> str:
    return run.recipe()["data"]["path"] or "scenes"


def corpus(path: str | None) -> References | None:
    """The references whose document frequencies are wanted; of a dataset folder the training captions."""
    if path is None:
        return None
    file = storage.user_path(path)
    return References.kept(read_references(file, _TRAIN if file.is_dir() else None))


def describe_corpus(references: References, path: str | None) -> dict[str, Any]:
    """Where the document frequencies come from, for `scores.json`."""
    return {
        "document_frequencies": "evaluated references" if path is None else path,
        "document_frequencies_images": len(references.corpus),
        "document_frequencies_hash": references.corpus.fingerprint,
    }


def shared_images(
    predictions: Mapping[Path, Mapping[str, str]],
    people: Mapping[str, Sequence[str]],
    *,
    source: str | Path,
    allow_partial: bool,
    fewest: int = 1,
) -> tuple[list[str], dict[str, dict[str, int]]]:
    """The images that people and every file of `predictions` have, in the order of the references from `source`.

    And, where that is a part, how many images each file that differs lacks or has too many. Raises `DataError` naming
    them, unless `allow_partial`, and where fewer than `fewest` are shared.
    """
    missing = {file: [image for image in people if image not in given] for file, given in predictions.items()}
    extra = {file: [image for image in given if image not in people] for file, given in predictions.items()}
    shared = [image for image in people if all(image in given for given in predictions.values())]
    differ = [file for file in predictions if missing[file] or extra[file]]
    lines = [_line(file, missing[file], extra[file]) for file in differ]
    if len(shared) < fewest:
        ids = ", ".join(f"{named(given)} in {file}" for file, given in predictions.items())
        told = [*lines, f"image ids are {named(people)} in {source} and {ids}"]
        needed = counted(fewest, "image that all share is", "images that all share are")
        raise DataError("\n".join([f"{needed} needed, and there are {len(shared)}:", *told]))
    if not differ:
        return shared, {}
    share = counted(len(shared), "image that all share", "images that all share")
    if not allow_partial:
        way_out = f"A part compares with no published scores; --allow-partial takes the {share} all the same."
        raise DataError(
            "\n".join([f"predictions and references ({source}) are not of the same images:", *lines, way_out])
        )
    are = "is" if len(shared) == 1 else "are"
    events.warn("\n".join([f"only the {share} {are} taken:", *lines]))
    return shared, {
        str(file): {"images_without_prediction": len(missing[file]), "predictions_without_reference": len(extra[file])}
        for file in differ
    }


def _line(file: Path, missing: Sequence[str], extra: Sequence[str]) -> str:
    parts = (
        (missing, "image has no prediction", "images have no prediction"),
        (extra, "prediction has no reference", "predictions have no reference"),
    )
    return f"  {file}: " + ", ".join(f"{counted(len(some), *what)} ({named(some)})" for some, *what in parts if some)
