"""What makes scores comparable: the same images on both sides, the corpus behind CIDEr, what training had seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioncrafter import events, runs
from captioncrafter.data.caption_files import dataset_split, named, read_references
from captioncrafter.data.dataset import image_hashes
from captioncrafter.data.pictures import Picture
from captioncrafter.data.splits import CaptionedImages
from captioncrafter.errors import DataError
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
    def of_images(cls, images: CaptionedImages, source: str) -> "Trained":
        """The training split of a run."""
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


def corpus(path: str | None) -> References | None:
    """The references whose document frequencies are wanted; of a dataset folder the training captions."""
    if path is None:
        return None
    file = runs.user_path(path)
    return References.kept(read_references(file, _TRAIN if file.is_dir() else None))


def describe_corpus(references: References, path: str | None) -> dict[str, Any]:
    """Where the document frequencies come from, for `scores.json`."""
    return {
        "document_frequencies": "evaluated references" if path is None else path,
        "document_frequencies_images": len(references.corpus),
        "document_frequencies_hash": references.corpus.fingerprint,
    }


def shared_images(
    given: Mapping[str, str],
    people: Mapping[str, Sequence[str]],
    *,
    names: tuple[Path, Path],
    allow_partial: bool,
) -> tuple[list[str], dict[str, Any]]:
    """The images that both have, in the order of the references, and what `scores.json` says where that is a part.

    Raises `DataError` naming the images that only one of them has, unless `allow_partial`; `names` are the files.
    """
    shared = [image for image in people if image in given]
    missing = [image for image in people if image not in given]
    extra = [image for image in given if image not in people]
    if not missing and not extra:
        return shared, {}
    predictions, references = names
    if not shared:
        raise DataError(
            f"{predictions} and {references} share no image: image ids are {named(given)} in the one and "
            f"{named(people)} in the other."
        )
    differ = f"{len(missing)} images have no prediction{_in_brackets(missing)}, {len(extra)} predictions have no "
    differ += f"reference{_in_brackets(extra)}"
    if not allow_partial:
        raise DataError(
            f"{predictions} and {references} are not of the same images: {differ}. Scores of a part compare with no "
            f"published ones; --allow-partial scores the {len(shared)} images they share all the same."
        )
    events.warn(f"scored on the {len(shared)} images that both files share only: {differ}")
    counts = {"images_without_prediction": len(missing), "predictions_without_reference": len(extra)}
    return shared, {"partial": counts}


def _in_brackets(images: Sequence[str]) -> str:
    return f" ({named(images)})" if images else ""
