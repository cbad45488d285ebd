"""What systems are compared on: the same images, what people wrote of them, and the same weights for CIDEr."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioncrafter import events
from captioncrafter.data.caption_files import dataset_split, read_references
from captioncrafter.data.pictures import Picture, pictures_given, pictures_in, pictures_of
from captioncrafter.data.splits import CaptionedImage, load_splits
from captioncrafter.errors import DataError, InputError
from captioncrafter.stages.systems import Evaluated, System


@dataclass(frozen=True)
class CommonGround:
    """What people wrote of each image, and where that comes from (`told`, for the result).

    `answers` when they are answers to questions. `corpus` are the captions whose document frequencies weighed the runs'
    CIDEr, None for the references' own. Images are those of a `file` of references, or the runs' own.
    """

    people: Mapping[str, Sequence[str]]
    told: Mapping[str, Any]
    corpus: str | None
    answers: bool = False
    file: Path | None = None
    images: Sequence[CaptionedImage] = ()

    def pictures(self, image_ids: Sequence[str], folder: Path | None) -> dict[str, Picture] | None:
        """The images themselves, from `folder` where one is given; None where nothing that was given holds them."""
        if self.file is not None:
            return pictures_given(image_ids, self.file, self.told.get("split"), folder)
        return pictures_of(self.images) if folder is None else pictures_in(folder, image_ids, {})


def find_common_ground(systems: Sequence[System], references: Path | None, split: str | None) -> CommonGround:
    """That of `references`, else of the runs' evaluated split.

    Raises `InputError` where there are no references, `DataError` where the runs are not of the same data.
    """
    evaluated = [model.evaluated for system in systems for model in system.models.values() if model.evaluated]
    if references is not None:
        _tell_of_other_data(evaluated)
        name = dataset_split(references, split)[0] if references.is_dir() else split
        told = {"references_from": str(references)} | ({"split": name} if name else {})
        return CommonGround(read_references(references, name), told, _corpus_of(evaluated), file=references)
    if not evaluated:
        raise InputError("predictions files bring no references: give them with --references REFS.")
    first, *others = evaluated
    for other in others:
        _refuse_other_data(first, other)
    if split not in (None, first.split):
        raise InputError(
            f"--split {split}: {first.folder} was evaluated on {first.split}. "
            f"`captioncrafter evaluate --run RUN --split {split}` captions the other first."
        )
    images = _images(first)
    told = {"references_from": first.options.data.path or "scenes", "split": first.split, "data": first.data}
    return CommonGround(
        {image.image_id: image.captions for image in images},
        told,
        _corpus_of(evaluated),
        answers=any(image.prompt is not None for image in images),
        images=images,
    )


def _corpus_of(evaluated: Sequence[Evaluated]) -> str | None:
    corpora = {one.corpus for one in evaluated}
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
