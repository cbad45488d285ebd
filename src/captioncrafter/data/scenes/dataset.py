"""Scenes as captioned images, in the columns every dataset of ours has; drawn when asked for, never stored."""

import io
from typing import TYPE_CHECKING, Literal

from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.picture import draw
from captioncrafter.data.scenes.world import Split, draw_scene

if TYPE_CHECKING:
    import datasets

Style = Literal["terse", "house"]

_WORDINGS = {"terse": wording.terse, "house": wording.house}


def scene_images(count: int, *, seed: int, split: Split, style: Style, image_size: int) -> "datasets.Dataset":
    """`count` scenes with columns image (PNG bytes), image_id and captions (five).

    The same arguments give the same bytes. Validation and test scenes hold combinations that no training scene of
    any seed holds.
    """
    import datasets

    scenes = [draw_scene(seed, split, index) for index in range(count)]
    columns = {
        "image": [{"bytes": _png(draw(scene, image_size)), "path": None} for scene in scenes],
        "image_id": [f"scene-{seed}-{split}-{index:05d}" for index in range(count)],
        "captions": [_WORDINGS[style](scene) for scene in scenes],
    }
    features = datasets.Features(
        image=datasets.Image(), image_id=datasets.Value("string"), captions=datasets.List(datasets.Value("string"))
    )
    return datasets.Dataset.from_dict(columns, features=features)


def _png(picture: "object") -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)  # pyright: ignore[reportAttributeAccessIssue]
    return file.getvalue()
