"""Scenes as captioned images, in the columns every dataset of ours has; drawn when asked for, never stored."""

import io
from typing import Literal

import datasets
from PIL import Image

from captioncrafter.data.dataset import FEATURES, PROMPTED_FEATURES
from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.picture import draw
from captioncrafter.data.scenes.questions import ask
from captioncrafter.data.scenes.world import Split, draw_scene

Style = Literal["terse", "house"]

_WORDINGS = {"terse": wording.terse, "house": wording.house}


def scene_images(count: int, *, seed: int, split: Split, style: Style, image_size: int) -> datasets.Dataset:
    """`count` scenes with columns image (PNG bytes), image_id and captions (five).

    The same arguments give the same bytes. Validation and test scenes hold combinations that no training scene of
    any seed holds.
    """
    scenes = [draw_scene(seed, split, index) for index in range(count)]
    columns = {
        "image": [_image(draw(scene, image_size)) for scene in scenes],
        "image_id": [_scene_id(seed, split, index) for index in range(count)],
        "captions": [_WORDINGS[style](scene) for scene in scenes],
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def scene_questions(count: int, *, seed: int, split: Split, questions: int, image_size: int) -> datasets.Dataset:
    """The scenes of `scene_images` with so many `questions` about each: a row for each question.

    Its prompt holds the question, its captions the accepted answers, its id the scene's and the kind of question.
    """
    rows = []
    for index in range(count):
        scene = draw_scene(seed, split, index)
        image = _image(draw(scene, image_size))
        rows += [
            {
                "image": image,
                "image_id": f"{_scene_id(seed, split, index)}/{question.kind}",
                "captions": list(question.answers),
                "prompt": question.prompt,
            }
            for question in ask(scene, questions)
        ]
    return datasets.Dataset.from_list(rows, features=PROMPTED_FEATURES)


def _scene_id(seed: int, split: Split, index: int) -> str:
    return f"scene-{seed}-{split}-{index:05d}"


def _image(picture: Image.Image) -> dict[str, bytes | None]:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}
