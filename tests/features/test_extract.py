"""Each image goes through the frozen half once, and what was computed before a stop is kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from captioncrafter.data.images import decode_image
from captioncrafter.errors import ImageError
from captioncrafter.features import extract as extraction
from captioncrafter.features.extract import extract, pixel_values
from captioncrafter.features.key import FeatureKey
from captioncrafter.features.store import FeatureStore
from tiny import flip_byte, load_tiny, picture

KEY = FeatureKey({})


class Counted:
    """Pictures by name that count how often each was decoded; `broken` ones cannot be."""

    def __init__(self, count: int, *, broken: str = "") -> None:
        self.broken = broken
        self.decoded: list[str] = []
        self.images: dict[str, Callable[[], Image.Image]] = {
            f"image-{number}": lambda number=number: self._decode(number) for number in range(count)
        }

    def _decode(self, number: int) -> Image.Image:
        name = f"image-{number}"
        if name == self.broken:
            raise ImageError(name, "damaged")
        self.decoded.append(name)
        return decode_image(picture(number))


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path):
    _, processor, model = load_tiny(tiny_checkpoint)
    return model, processor


def run(tiny, pictures: Counted, root: Path, *, images_per_batch: int = 2) -> int:
    store = FeatureStore.open(root, KEY)
    return extract(*tiny, pictures.images, store, images_per_batch=images_per_batch, stored_as="float32")


def test_features_are_the_q_formers_outputs_of_the_stock_model(tiny, tmp_path: Path):
    model, processor = tiny
    pictures = Counted(3)

    run(tiny, pictures, tmp_path)

    pixels = processor.image_processor([decode_image(picture(n)) for n in range(3)], return_tensors="pt").pixel_values
    with torch.no_grad():
        stock = model.get_image_features(pixels).qformer_outputs.last_hidden_state
    rows = FeatureStore.open(tmp_path, KEY).rows(list(pictures.images))
    torch.testing.assert_close(rows, stock, rtol=1e-5, atol=1e-5)


def test_each_image_is_computed_once_ever(tiny, tmp_path: Path):
    pictures = Counted(5)

    first, second = run(tiny, pictures, tmp_path), run(tiny, pictures, tmp_path)

    assert (first, second) == (5, 0)
    assert sorted(pictures.decoded) == sorted(pictures.images)


def test_only_the_images_that_are_new_are_computed(tiny, tmp_path: Path):
    run(tiny, Counted(3), tmp_path)
    more = Counted(5)

    computed = run(tiny, more, tmp_path)

    assert computed == 2
    assert sorted(more.decoded) == ["image-3", "image-4"]


def test_an_interrupted_extraction_goes_on_after_its_last_part(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extraction, "_PART_IMAGES", 4)
    with pytest.raises(ImageError):
        run(tiny, Counted(10, broken="image-9"), tmp_path)
    whole = Counted(10)

    computed = run(tiny, whole, tmp_path)

    assert computed == 2
    assert sorted(whole.decoded) == ["image-8", "image-9"]


def test_the_batch_size_changes_nothing_but_rounding(tiny, tmp_path: Path):
    pictures = Counted(5)

    run(tiny, pictures, tmp_path / "one", images_per_batch=1)
    run(tiny, pictures, tmp_path / "four", images_per_batch=4)

    one, four = (FeatureStore.open(tmp_path / name, KEY).rows(list(pictures.images)) for name in ("one", "four"))
    torch.testing.assert_close(one, four, rtol=1e-5, atol=1e-5)


def test_a_damaged_part_is_computed_again_to_the_same_features(tiny, tmp_path: Path):
    pictures = Counted(3)
    run(tiny, pictures, tmp_path)
    before = FeatureStore.open(tmp_path, KEY).rows(list(pictures.images))
    (file,) = FeatureStore.open(tmp_path, KEY).folder.glob("*.safetensors")
    flip_byte(file, file.stat().st_size - 2)

    computed = run(tiny, pictures, tmp_path)

    assert computed == 3
    assert torch.equal(FeatureStore.open(tmp_path, KEY).rows(list(pictures.images)), before)


def test_pixels_are_those_of_the_whole_processor(tiny):
    _, processor = tiny
    image = decode_image(picture(1))

    pixels = pixel_values(processor, [image])

    assert torch.equal(pixels, processor(images=image, text="a photo", return_tensors="pt").pixel_values)
