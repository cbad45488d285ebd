"""Captioned images as strangers keep them: small folders in Flickr8k's and in Kaggle's layout."""

import io
from pathlib import Path

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
