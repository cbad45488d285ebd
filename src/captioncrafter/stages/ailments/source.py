"""A folder of captioned images as somebody published it: what `captioncrafter prepare` would make of it."""

from functools import partial
from pathlib import Path

from captioncrafter.data.example import Source
from captioncrafter.data.images import read_image_file
from captioncrafter.errors import counted
from captioncrafter.stages.ailments.captions import Captioned, default_limit, examine_captions, listed
from captioncrafter.stages.ailments.finding import Record
from captioncrafter.stages.ailments.pictures import Stored, examine_pictures

_PREPARE = "`captioncrafter prepare` leaves them out and says so; correct the source where that is not meant."


def examine_source(record: Record, path: Path, source: Source, *, decode: bool) -> None:
    """All that does not fit together in a folder whose layout is known."""
    record.facts["layout"] = source.layout
    record.facts["captioned images"] = len(source.examples)
    record.facts["splits from"] = source.splits_from or "nobody yet: prepare draws them by image"
    record.facts["licence"] = source.licence
    strays = {
        "captions-without-image": (
            "caption",
            "without image",
            [one.caption_id for one in source.captions_without_image],
        ),
        "blank-captions": ("blank caption", "", [line.place for line in source.blank_captions]),
        "images-without-captions": ("image", "without captions", source.images_without_captions),
        "images-in-no-split": ("image", "in no split", source.images_in_no_split),
        "listed-images-absent": ("listed image", "absent", source.listed_images_absent),
        "leads-out": ("path", "leading out of the folder", [one.image for one in source.set_aside]),
    }
    for ailment, (noun, how, names) in strays.items():
        if names:
            what = f"{counted(len(names), noun)} {how}".rstrip()
            record.note(ailment, path, what, _PREPARE, details=listed(list(names)))
    splits: dict[str, list[Captioned]] = {}
    for example in source.examples:
        splits.setdefault(example.split or "train", []).append(Captioned(example.image_id, example.captions))
    examine_captions(record, path, splits, limit=default_limit())
    images = (
        Stored(
            example.split or "train",
            example.image_id,
            len(example.captions),
            partial(read_image_file, example.file, example.image_id),
        )
        for example in source.examples
    )
    examine_pictures(record, source.image_folder, images, len(source.examples), decode=decode)
    record.note("not-prepared", path, "not a dataset folder yet", f"captioncrafter prepare {path} --out DATASET")
