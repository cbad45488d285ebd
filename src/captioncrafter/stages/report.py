"""`captioncrafter report`: a run's page, with its base and other runs beside it, rebuilt from what is on disk."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from captioncrafter import events, recipe, runs
from captioncrafter.data.ahead import computed_ahead
from captioncrafter.data.splits import CaptionedImage, load_splits
from captioncrafter.errors import DataError
from captioncrafter.report.page import ReportData, System, render

_THUMBNAIL_PIXELS = 200
_THUMBNAIL_QUALITY = 82


def report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page about the first run (into it, unless `out` names a file) and gives the file.

    Its base stands beside it where that was scored, then the other runs. Raises `DataError` when a folder is no run,
    or when the first was not evaluated. Where the run's data is no longer there, the page has no images and no
    references, and a line says so.
    """
    first, *others = [runs.Run.open(path) for path in paths]
    if not (first.path / runs.PREDICTIONS).is_file():
        raise DataError(f"{first.path}: nothing to show yet. `captioncrafter evaluate --run {first.path}` scores it.")
    subject = _system(first.path, first.path.resolve().name)
    systems = [subject]
    if (first.path / runs.BASE / runs.PREDICTIONS).is_file():
        systems.append(_system(first.path / runs.BASE, "base"))
    systems += [_beside(other, subject) for other in others]
    options = recipe.build(first.recipe(), source=str(first.path / runs.RECIPE))
    images = _images(options, subject)
    page = render(
        ReportData(
            title=f"{first.path.resolve().name}: captions by {options.model.base}",
            summary=_summary(options),
            systems=systems,
            references={image.image_id: image.captions for image in images},
            thumbnails=_thumbnails(images),
            log=first.log(),
            recipe=first.recipe(),
            manifest=first.manifest(),
        )
    )
    target = out or first.path / runs.REPORT
    runs.write_text(target, page)
    events.say(f"report: {target}")
    return target


def _system(folder: Path, name: str) -> System:
    predictions = {row["image_id"]: row["caption"] for row in runs.read_jsonl(folder / runs.PREDICTIONS)}
    rows = runs.read_jsonl(folder / runs.IMAGE_SCORES)
    by_image = {row["image_id"]: {key: value for key, value in row.items() if key != "image_id"} for row in rows}
    return System(name, predictions, runs.read_json(folder / runs.SCORES), by_image)


def _beside(other: runs.Run, subject: System) -> System:
    """Another run's captions of the same images; raises `DataError` when they are of others."""
    system = _system(other.path, other.path.resolve().name)
    if system.predictions.keys() != subject.predictions.keys():
        raise DataError(
            f"{other.path}: was evaluated on other images than {subject.name} ({len(system.predictions)} and "
            f"{len(subject.predictions)}), so their scores do not compare. Evaluate both on the same split."
        )
    return system


def _summary(options: recipe.Recipe) -> str:
    data = f"the images of {options.data.path}" if options.data.path else "drawn scenes"
    return (
        f"{options.model.base}, fine-tuned on {data} with LoRA of rank {options.lora.rank} on "
        f"{', '.join(options.lora.targets)}."
    )


def _images(options: recipe.Recipe, subject: System) -> list[CaptionedImage]:
    """The images that the subject captioned; none when the run's data is no longer there."""
    try:
        split = load_splits(options.data)[subject.scores.get("split", "validation")]
    except (DataError, KeyError) as error:
        events.warn(f"the page has no images and no references: {error}")
        return []
    return [image for image in split if image.image_id in subject.predictions]


def _thumbnails(images: Sequence[CaptionedImage]) -> Mapping[str, bytes]:
    return dict(computed_ahead(_thumbnail, images))


def _thumbnail(image: CaptionedImage) -> tuple[str, bytes]:
    """A small JPEG of the whole image."""
    picture: Any = image.decode()
    picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_THUMBNAIL_QUALITY)
    return image.image_id, file.getvalue()
