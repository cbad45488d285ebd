"""`captioncrafter quickstart`: the whole road on the embedded miniature and drawn scenes, without network or data."""

import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from captioncrafter import events, recipe, runs, storage
from captioncrafter.data.scenes.picture import draw
from captioncrafter.data.scenes.world import draw_scene
from captioncrafter.errors import InputError
from captioncrafter.generation.captioner import Captioner
from captioncrafter.metrics import java
from captioncrafter.stages.evaluate import Evaluated, evaluate_run
from captioncrafter.stages.report import report
from captioncrafter.stages.train import train

_MARK = ".quickstart"
_PHOTOS = Path(str(resources.files("captioncrafter"))) / "assets" / "photos"
_SCENES = 6
_SCENES_SEED = 2024
_SCENE_PIXELS = 384


@dataclass(frozen=True)
class QuickstartResult:
    """The scores before and after, captions of some files, and the report's file.

    `captions` are of drawn scenes (file, base caption, tuned caption), `photos` of freely licensed photos (file, base
    caption): the adapter has learned to tell scenes, and would tell a photo as one.
    """

    base: Evaluated
    tuned: Evaluated
    captions: list[dict[str, str]]
    photos: list[dict[str, str]]
    report: Path


def quickstart(out: Path, options: recipe.Recipe) -> QuickstartResult:
    """Fine-tunes as `options` say, compares base and tuned on held-out scenes, captions pictures, writes the report.

    An older quick start in `out` is replaced; anything else there raises `InputError`.
    """
    _make_room(out)
    java.start_in_background()
    train(options, out)
    tuned, base = evaluate_run(out, split="test", base=True)
    assert base is not None
    captions, photos = _caption_pictures(out / runs.PICTURES)
    return QuickstartResult(base, tuned, captions, photos, report([out]))


def _make_room(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Choose another --out.")
    if out.is_dir() and any(out.iterdir()):
        if not (out / _MARK).is_file():
            raise InputError(f"{out}: not empty, and not an older quick start. Choose another --out.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()


def _caption_pictures(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Drawn scenes and sample photos, as files like a user's own: scenes captioned before and after, photos before."""
    folder.mkdir()
    for file in _PHOTOS.iterdir():
        shutil.copyfile(file, folder / file.name)  # and not its mode: a package may be read-only
    photos = sorted(folder.glob("*.jpg"))
    scenes = [folder / f"scene-{number + 1}.png" for number in range(_SCENES)]
    for number, file in enumerate(scenes):
        draw(draw_scene(_SCENES_SEED, "test", number), _SCENE_PIXELS).save(file)
    captioner = Captioner.load(adapter=folder.parent / runs.ADAPTER)
    tuned = captioner.caption(scenes)
    with captioner.without_adapter():
        base = captioner.caption(scenes + photos)
    of_scenes = [
        {"image": file.name, "base": before, "tuned": after}
        for file, before, after in zip(scenes, base[:_SCENES], tuned, strict=True)
    ]
    of_photos = [{"image": file.name, "base": said} for file, said in zip(photos, base[_SCENES:], strict=True)]
    storage.write_jsonl(folder / runs.PICTURE_CAPTIONS, [*of_scenes, *of_photos])
    events.say(f"captioned {_SCENES} scenes and {len(photos)} photos in {folder}")
    return of_scenes, of_photos
