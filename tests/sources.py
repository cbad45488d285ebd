"""Captioned images as strangers keep them: small folders in the layouts of Flickr8k, Kaggle, COCO and Karpathy."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from tiny import picture

LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def photo(number: int) -> bytes:
    """JPEG bytes of picture number n."""
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(number))).save(file, "JPEG")
    return file.getvalue()


def write_photos(folder: Path, count: int) -> Path:
    """Photos `0.jpg`, `1.jpg`, … in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(photo(number))
    return folder


def write_flickr8k(
    root: Path, *, train: int = 3, validation: int = 1, test: int = 1, images: str = "Flicker8k_Dataset"
) -> Path:
    """Flickr8k as its authors published it: each photo has two captions, and its name is in one of three lists."""
    count = train + validation + test
    write_photos(root / images, count)
    lines = [f"{number}.jpg#{order}\tPhoto {number} , told {order} .\n" for number in range(count) for order in (0, 1)]
    (root / "Flickr8k.token.txt").write_text("".join(lines), encoding="utf-8")
    names = [f"{number}.jpg\n" for number in range(count)]
    for split, start, stop in (
        ("train", 0, train), ("validation", train, train + validation), ("test", train + validation, count),
    ):  # fmt: skip
        if stop > start:
            (root / LISTS[split]).write_text("".join(names[start:stop]), encoding="utf-8")
    return root


def write_kaggle(root: Path, *, count: int = 6) -> Path:
    """Flickr8k as Kaggle hands it out: two captions of each photo in `captions.txt`, no lists."""
    write_photos(root / "Images", count)
    rows = [f'{number}.jpg,"Photo {number} , told {order} ."\n' for number in range(count) for order in (0, 1)]
    (root / "captions.txt").write_text("image,caption\n" + "".join(rows), encoding="utf-8")
    return root


def add_lines(file: Path, *lines: str) -> None:
    """Appends `lines` to a caption file or split list."""
    with file.open("a", encoding="utf-8") as opened:
        opened.writelines(line + "\n" for line in lines)


def write_coco(root: Path, *, year: str = "2014", train: int = 3, val: int = 2, images: str = "") -> Path:
    """COCO as its authors publish it: two captions of each photo, ids from 9 on, annotations before images.

    The photos lie in `train2014/` and `val2014/` within the folder `images`.
    """
    for name, start, count in (("train", 9, train), ("val", 9 + train, val)):
        ids = range(start, start + count)
        folder = root / images / f"{name}{year}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in ids:
            (folder / coco_name(number, name, year)).write_bytes(photo(number))
        write_json(
            root / "annotations" / f"captions_{name}{year}.json",
            {
                "info": {"description": f"COCO {year} Dataset", "year": int(year)},
                "annotations": [
                    {"image_id": number, "id": 10 * number + order, "caption": f"Photo {number}, told {order}.\n"}
                    for order in (0, 1)
                    for number in ids
                ],
                "licenses": [{"id": 1, "name": "Attribution License"}],
                "images": [{"license": 1, "id": one, "file_name": coco_name(one, name, year)} for one in ids],
            },
        )
    return root


def coco_name(number: int, name: str, year: str) -> str:
    """What COCO calls the file of a photo."""
    return f"COCO_{name}2014_{number:012d}.jpg" if year == "2014" else f"{number:012d}.jpg"


def write_karpathy_coco(root: Path) -> Path:
    """`dataset_coco.json` for the photos of `write_coco`: one each of train, restval, val and test."""
    splits = {9: ("train", "train"), 12: ("val", "restval"), 13: ("val", "val"), 10: ("train", "test")}
    images = [
        {
            "filepath": f"{name}2014",
            "filename": coco_name(number, name, "2014"),
            "cocoid": number,
            "imgid": place,
            "split": split,
            "sentids": [2 * place, 2 * place + 1],
            "sentences": karpathy_sentences(number, place),
        }
        for place, (number, (name, split)) in enumerate(splits.items())
    ]
    write_json(root / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return root


def write_karpathy_flickr8k(root: Path) -> Path:
    """`dataset_flickr8k.json` beside a folder of photos: one each of train, val and test."""
    write_photos(root / "Flicker8k_Dataset", 3)
    images = [
        {
            "sentids": [2 * number, 2 * number + 1],
            "imgid": number,
            "sentences": karpathy_sentences(number, number),
            "split": split,
            "filename": f"{number}.jpg",
        }
        for number, split in enumerate(("train", "val", "test"))
    ]
    write_json(root / "dataset_flickr8k.json", {"images": images, "dataset": "flickr8k"})
    return root


def karpathy_sentences(number: int, place: int) -> list[dict[str, Any]]:
    """Two captions of a photo as Karpathy's files have them."""
    return [
        {"tokens": ["photo", str(number)], "raw": f"Photo {number}, told {order}.", "imgid": place, "sentid": sentence}
        for order, sentence in enumerate((2 * place, 2 * place + 1))
    ]


def write_json(file: Path, value: Any) -> None:
    """A JSON file, and the folder it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")
