"""The captioned images of a recipe, split by split, as training and evaluation read them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from captioncrafter import recipe, storage
from captioncrafter.data.dataset import PROMPT, fingerprint, image_bytes, image_hashes, load_dataset_folder
from captioncrafter.data.example import SPLITS
from captioncrafter.data.images import decode_image
from captioncrafter.data.scenes import scene_images, scene_questions
from captioncrafter.data.scenes.world import Split
from captioncrafter.errors import DataError

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class CaptionedImage:
    """One image and what people wrote of it, asked by `prompt`; None stands for the recipe's prompt.

    `content` is the hash of its bytes, the same for every prompt of an image; `decode` gives it as RGB.
    """

    image_id: str
    captions: tuple[str, ...]
    prompt: str | None
    content: str
    decode: Callable[[], Image.Image]


class CaptionedImages:
    """One split: its images in their stored order. Image bytes stay on disk until one is decoded."""

    def __init__(self, dataset: "datasets.Dataset") -> None:
        self.dataset = dataset
        self._contents = image_hashes(dataset)

    def __len__(self) -> int:
        return len(self._contents)

    def __iter__(self) -> Iterator[CaptionedImage]:
        told = [column for column in ("image_id", "captions", PROMPT) if column in self.dataset.column_names]
        columns = self.dataset.select_columns(told)
        for row, facts in enumerate(columns):
            yield CaptionedImage(
                facts["image_id"],  # pyright: ignore[reportArgumentType, reportCallIssue]
                tuple(facts["captions"]),  # pyright: ignore[reportArgumentType, reportCallIssue]
                facts.get(PROMPT),  # pyright: ignore[reportAttributeAccessIssue]
                self._contents[row],
                partial(self._decode, row),
            )

    def fingerprint(self) -> str:
        """A hash of every image id, image, caption and prompt, in order."""
        return fingerprint(self.dataset)

    def first_different(self, count: int) -> list[CaptionedImage]:
        """The first `count` images of which no two are the same; fewer when there are fewer."""
        found: dict[str, CaptionedImage] = {}
        for image in self:
            found.setdefault(image.content, image)
            if len(found) == count:
                break
        return list(found.values())

    def _decode(self, row: int) -> Image.Image:
        return decode_image(image_bytes(self.dataset, row))


def load_splits(data: recipe.Data) -> dict[str, CaptionedImages]:
    """The splits that `data` names: of a dataset folder, or drawn scenes.

    Raises `DataError` when it names neither, or when the training or validation split is empty.
    """
    found = _datasets(data)
    for name in ("train", "validation"):
        if name not in found or not len(found[name]):
            raise DataError(
                f"{data.path}: the {name} split is empty; training needs images to learn from and others to choose the "
                "best adapter by. `captioncrafter prepare` makes both."
            )
    if data.train_images is not None:
        found["train"] = found["train"].select(range(min(data.train_images, len(found["train"]))))
    return {name: CaptionedImages(found[name]) for name in SPLITS if name in found and len(found[name])}


def _datasets(data: recipe.Data) -> dict[str, "datasets.Dataset"]:
    if data.path is not None:
        return load_dataset_folder(storage.user_path(data.path))
    if data.scenes is None:
        raise DataError(
            "the recipe names no data: give data.path (a folder that `captioncrafter prepare` wrote) or [data.scenes]."
        )
    return {name: _drawn(data.scenes, name) for name in SPLITS}


def _drawn(scenes: recipe.Scenes, split: Split) -> "datasets.Dataset":
    count = {"train": scenes.train, "validation": scenes.validation, "test": scenes.test}[split]
    seed, size = scenes.seed, scenes.image_size
    if scenes.task == "questions":
        return scene_questions(count, seed=seed, split=split, questions=scenes.questions_per_scene, image_size=size)
    return scene_images(count, seed=seed, split=split, style=scenes.style, image_size=size)
