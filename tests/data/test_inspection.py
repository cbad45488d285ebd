"""Looking at every image before it enters a dataset."""

import io
from pathlib import Path

from PIL import Image

from captioncrafter.data.example import Example
from captioncrafter.data.images import image_hash
from captioncrafter.data.inspection import inspect
from sources import photo


def examples_of(folder: Path, *contents: bytes) -> list[Example]:
    """One example for each content: `0.jpg`, `1.jpg`, …"""
    for number, content in enumerate(contents):
        (folder / f"{number}.jpg").write_bytes(content)
    return [Example(f"{number}.jpg", folder / f"{number}.jpg", ("a dog",)) for number in range(len(contents))]


def test_good_images_come_back_in_order_with_hash_and_size(tmp_path: Path):
    examples = examples_of(tmp_path, *map(photo, range(5)))

    good, bad = inspect(examples)

    assert [one.example for one in good] == examples
    assert [(one.content, one.size) for one in good] == [(image_hash(photo(n)), len(photo(n))) for n in range(5)]
    assert bad == []


def test_every_image_that_cannot_be_shown_is_set_aside_with_its_reason(tmp_path: Path):
    examples = examples_of(tmp_path, photo(0), b"", b"no image", photo(1)[:400], photo(2))
    gone = Example("gone.jpg", tmp_path / "gone.jpg", ("a dog",))

    good, bad = inspect([*examples, gone])

    assert [one.example.image_id for one in good] == ["0.jpg", "4.jpg"]
    assert [(one.image, one.reason.split(" (")[0]) for one in bad] == [
        ("1.jpg", "empty file"),
        ("2.jpg", "not an image of a known format"),
        ("3.jpg", "damaged"),
        ("gone.jpg", "cannot be read"),
    ]


def test_an_animation_is_good_and_marked(tmp_path: Path):
    file = io.BytesIO()
    frames = [Image.new("L", (4, 4), level) for level in (0, 128)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])

    good, _ = inspect(examples_of(tmp_path, photo(0), file.getvalue()))

    assert [one.more_frames for one in good] == [False, True]


def test_what_pillow_only_warns_about_stops_nothing(tmp_path: Path):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")

    good, bad = inspect(examples_of(tmp_path, file.getvalue()))

    assert (len(good), bad) == (1, [])


def test_more_images_than_are_looked_at_together_all_come_back(tmp_path: Path):
    (example,) = examples_of(tmp_path, photo(0))

    good, _ = inspect([example] * 1500)

    assert len(good) == 1500
