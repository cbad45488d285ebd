"""Each image goes through the frozen prefix once, and what was computed before a stop is kept."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from captioncrafter import recipe
from captioncrafter.data.images import decode_image
from captioncrafter.errors import ImageError
from captioncrafter.features import extract as extraction
from captioncrafter.features.extract import Wanted, extract, pixel_values
from captioncrafter.features.key import FeatureKey
from captioncrafter.features.store import FeatureStore
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import features_at
from captioncrafter.model.prompts import encode_prompt, stacked
from tiny import flip_byte, load_tiny, picture, tiny_processor

KEY = FeatureKey({})
TEXTS = ("a photo of", "a", "question what colour answer", "a")


class Counted:
    """Pictures by name that count how often each was decoded; a `broken` one cannot be."""

    def __init__(self, count: int, *, broken: str = "", texts: Sequence[str] = ("a photo of",)) -> None:
        self.broken = broken
        self.decoded: list[str] = []
        prompts = [encode_prompt(tiny_processor(), text) for text in texts]
        self.wanted = {
            f"image-{number}": Wanted(lambda number=number: self._decode(number), prompts[number % len(prompts)])
            for number in range(count)
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


def run(
    tiny,
    pictures: Counted,
    root: Path,
    *,
    cut: Cut = Cut.QFORMER,
    images_per_batch: int = 2,
    names: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> int:
    wanted = {name: one for name, one in pictures.wanted.items() if not names or name[-1] in names}
    features = recipe.Features(images_per_batch=images_per_batch, dtype="float32")
    store = FeatureStore.open(root, KEY)
    model, processor = tiny
    return extract(model, processor, cut, wanted, store, device=torch.device("cpu"), features=features, stop=stop)


def stored(root: Path, pictures: Counted) -> Tensor:
    return FeatureStore.open(root, KEY).rows(list(pictures.wanted))


def in_one_batch(tiny, pictures: Counted, cut: Cut) -> Tensor:
    """What the prefix makes of all pictures at once, shorter prompts padded."""
    model, processor = tiny
    pixels = pixel_values(processor, [decode_image(picture(number)) for number in range(len(pictures.wanted))])
    return features_at(model, pixels, cut, stacked([one.prompt for one in pictures.wanted.values()], pad_id=0))


def test_features_are_the_q_formers_outputs_of_the_stock_model(tiny, tmp_path: Path):
    model, processor = tiny
    pictures = Counted(3)

    run(tiny, pictures, tmp_path)

    pixels = processor.image_processor([decode_image(picture(n)) for n in range(3)], return_tensors="pt").pixel_values
    with torch.no_grad():
        stock = model.get_image_features(pixels).qformer_outputs.last_hidden_state
    torch.testing.assert_close(stored(tmp_path, pictures), stock, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", [Cut.VISION, Cut.QFORMER, Cut.PROJECTION])
def test_each_cut_is_stored_as_the_prefix_gives_it(tiny, tmp_path: Path, cut: Cut):
    pictures = Counted(5, texts=TEXTS)

    run(tiny, pictures, tmp_path, cut=cut)

    expected = in_one_batch(tiny, pictures, cut)
    torch.testing.assert_close(stored(tmp_path, pictures), expected, rtol=1e-5, atol=1e-5)


def test_encoder_states_are_stored_without_padding_whatever_prompts_come_together(tiny, tmp_path: Path):
    pictures = Counted(7, texts=TEXTS)

    run(tiny, pictures, tmp_path, cut=Cut.ENCODER, images_per_batch=3)

    store, batch = FeatureStore.open(tmp_path, KEY), in_one_batch(tiny, pictures, Cut.ENCODER)
    for row, (name, one) in enumerate(pictures.wanted.items()):
        (states,) = store.rows([name])
        assert len(states) == len(one.prompt)
        torch.testing.assert_close(states, batch[row, : len(one.prompt)], rtol=1e-4, atol=1e-5)


def test_encoder_states_of_different_prompts_are_read_as_one_padded_batch(tiny, tmp_path: Path):
    pictures = Counted(4, texts=TEXTS)

    run(tiny, pictures, tmp_path, cut=Cut.ENCODER)

    rows = stored(tmp_path, pictures)
    known = stacked([one.prompt for one in pictures.wanted.values()], pad_id=0).positions
    assert rows.shape[:2] == known.shape
    torch.testing.assert_close(rows[known], in_one_batch(tiny, pictures, Cut.ENCODER)[known], rtol=1e-4, atol=1e-5)
    assert rows[~known].eq(0).all()


def test_each_image_is_computed_once_ever(tiny, tmp_path: Path):
    pictures = Counted(5, texts=TEXTS)

    first, second = run(tiny, pictures, tmp_path), run(tiny, pictures, tmp_path)

    assert (first, second) == (5, 0)
    assert sorted(pictures.decoded) == sorted(pictures.wanted)


def test_only_the_images_that_are_new_are_computed(tiny, tmp_path: Path):
    run(tiny, Counted(3), tmp_path)
    more = Counted(5)

    computed = run(tiny, more, tmp_path)

    assert computed == 2
    assert sorted(more.decoded) == ["image-3", "image-4"]


def test_what_each_of_several_processes_computes_makes_a_whole(tiny, tmp_path: Path):
    pictures = Counted(5)

    computed = run(tiny, pictures, tmp_path, names="024") + run(tiny, pictures, tmp_path, names="13")

    assert computed == 5
    expected = in_one_batch(tiny, pictures, Cut.QFORMER)
    torch.testing.assert_close(stored(tmp_path, pictures), expected, rtol=1e-5, atol=1e-5)


def test_an_interrupted_extraction_goes_on_after_its_last_part(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extraction, "_PART_IMAGES", 4)
    with pytest.raises(ImageError):
        run(tiny, Counted(10, broken="image-9"), tmp_path)
    whole = Counted(10)

    computed = run(tiny, whole, tmp_path)

    assert computed == 2
    assert sorted(whole.decoded) == ["image-8", "image-9"]


@pytest.mark.parametrize(("asked", "kept"), [(1, 2), (4, 6)], ids=["amid a part", "amid the second"])
def test_an_extraction_that_is_asked_to_stop_keeps_the_batches_it_computed(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, kept: int
):
    monkeypatch.setattr(extraction, "_PART_IMAGES", 4)
    asking = itertools.count(1)

    computed = run(tiny, Counted(10), tmp_path, stop=lambda: next(asking) >= asked)

    assert computed == kept
    assert run(tiny, Counted(10), tmp_path) == 10 - kept


def test_the_batch_size_changes_nothing_but_rounding(tiny, tmp_path: Path):
    pictures = Counted(5)

    run(tiny, pictures, tmp_path / "one", images_per_batch=1)
    run(tiny, pictures, tmp_path / "four", images_per_batch=4)

    one, four = (stored(tmp_path / name, pictures) for name in ("one", "four"))
    torch.testing.assert_close(one, four, rtol=1e-5, atol=1e-5)


def test_a_damaged_part_is_computed_again_to_the_same_features(tiny, tmp_path: Path):
    pictures = Counted(3)
    run(tiny, pictures, tmp_path)
    before = stored(tmp_path, pictures)
    (file,) = FeatureStore.open(tmp_path, KEY).folder.glob("*.safetensors")
    flip_byte(file, file.stat().st_size - 2)

    computed = run(tiny, pictures, tmp_path)

    assert computed == 3
    assert torch.equal(stored(tmp_path, pictures), before)


def test_pixels_are_those_of_the_whole_processor(tiny):
    _, processor = tiny
    image = decode_image(picture(1))

    pixels = pixel_values(processor, [image])

    assert torch.equal(pixels, processor(images=image, text="a photo", return_tensors="pt").pixel_values)
