"""Many files: found once each, captioned whatever is wrong with some, gone on with after a stop."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from captioncrafter import Captioner, recipe
from captioncrafter.data.splits import load_splits
from captioncrafter.errors import InputError
from captioncrafter.generation.bulk import (
    ImageFile,
    caption_dataset,
    caption_files,
    find_images,
    prediction_line,
    read_finished,
)
from captioncrafter.stages.caption import caption
from tiny import picture, write_tiny_dataset


@pytest.fixture(scope="module")
def captioner(tiny_checkpoint: Path) -> Captioner:
    loaded = Captioner.load(str(tiny_checkpoint), device="cpu", precision="fp32")
    return loaded.with_decoding(num_beams=1, max_new_tokens=6, images_per_batch=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a.png, b.png, deep/c.png, deep/a.png and a text file."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "deep/c.png", "deep/a.png")):
        (folder / name).write_bytes(picture(number))
    (folder / "notes.txt").write_text("not an image")
    return folder


def paths_of(*given: str | Path) -> list[Path]:
    return [image.path for image in find_images([str(word) for word in given])]


def test_a_file_is_found(photos: Path):
    assert find_images([str(photos / "b.png")]) == [ImageFile(photos / "b.png", "b.png")]


def test_a_folder_is_searched_through_for_images_in_order(photos: Path):
    assert paths_of(photos) == [photos / name for name in ("a.png", "b.png", "deep/a.png", "deep/c.png")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["a.png", "b.png"]),
        ("**/*.png", ["a.png", "b.png", "deep/a.png", "deep/c.png"]),
        ("deep/[cx].png", ["deep/c.png"]),
    ],
)
def test_a_pattern_is_matched(photos: Path, pattern: str, names: list[str]):
    assert paths_of(photos / pattern) == [photos / name for name in names]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos: Path):
    file = photos / "photo[1].png"
    file.write_bytes(picture(1))

    assert paths_of(file) == [file]


def test_an_image_named_twice_is_found_once(photos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(photos)

    assert paths_of("b.png", photos / "b.png", ".", "./deep") == [
        Path("b.png"), Path("a.png"), Path("deep/a.png"), Path("deep/c.png"),
    ]  # fmt: skip


def test_an_image_goes_by_its_name_and_by_its_path_where_two_share_one(photos: Path):
    ids = [image.image_id for image in find_images([str(photos)])]

    assert ids == [(photos / "a.png").as_posix(), "b.png", (photos / "deep" / "a.png").as_posix(), "c.png"]


@pytest.mark.parametrize("word", ["nothing.png", "*.gif", "deep/*/x"])
def test_a_name_that_matches_nothing_is_refused(photos: Path, word: str):
    with pytest.raises(InputError, match="no such file or folder, and no file matches"):
        find_images([str(photos / word)])


def test_a_folder_without_images_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no images in this folder"):
        find_images([str(tmp_path)])


def test_naming_nothing_is_refused():
    with pytest.raises(InputError, match="no images named"):
        find_images([])


def test_every_image_gets_the_caption_it_gets_alone(captioner: Captioner, photos: Path):
    written: dict[str, str] = {}
    images = find_images([str(photos)])

    result = caption_files(captioner, images, lambda image, text: written.update({image.image_id: text}))

    assert result.captioned == 4
    assert written == {image.image_id: captioner.caption(image.path)[0] for image in images}


def test_a_broken_image_is_set_aside_by_name_and_the_rest_is_captioned(
    captioner: Captioner, photos: Path, capsys: pytest.CaptureFixture[str]
):
    (photos / "b.png").write_bytes(b"broken")
    (photos / "deep" / "c.png").write_bytes(picture(2)[:60])
    written: list[str] = []

    result = caption_files(captioner, find_images([str(photos)]), lambda image, _: written.append(image.path.name))

    assert written == ["a.png", "a.png"]
    assert result.captioned == 2
    assert [Path(name).name for name, _ in result.set_aside] == ["b.png", "c.png"]
    assert "not an image of a known format" in result.set_aside[0][1]
    assert f"{photos / 'b.png'}: not an image" in capsys.readouterr().err


def test_a_batch_of_nothing_but_broken_images_is_no_end(captioner: Captioner, photos: Path):
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(b"broken")

    result = caption_files(captioner, find_images([str(photos)]), lambda image, text: None)

    assert (result.captioned, len(result.set_aside)) == (2, 2)


def lines_of(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_what_the_file_already_has_is_not_captioned_again(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    caption([str(photos / "b.png")], lambda: captioner, dict, out=out)
    out.write_text(prediction_line("b.png", "kept as it is"))

    result = caption([str(photos)], lambda: captioner, dict, out=out)

    assert (result.captioned, result.already) == (3, 1)
    assert lines_of(out)[0] == {"image_id": "b.png", "caption": "kept as it is"}
    assert len(lines_of(out)) == 4


def test_a_last_line_cut_short_is_repaired_and_captioned_again(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    caption([str(photos)], lambda: captioner, dict, out=out)
    whole = out.read_bytes()
    out.write_bytes(whole[:-7])

    result = caption([str(photos)], lambda: captioner, dict, out=out)

    assert (result.captioned, result.already) == (1, 3)
    assert out.read_bytes() == whole


def test_a_line_cut_anywhere_even_inside_a_letter_is_taken_off(tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    first, second = (prediction_line(name, "ein Café").encode() for name in ("a.png", "b.png"))

    for kept_bytes in range(len(second)):
        out.write_bytes(first + second[:kept_bytes])
        assert read_finished(out) == {"a.png"}
        assert out.read_bytes() == first


def test_a_file_of_another_kind_is_not_written_to(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "notes.txt"
    out.write_text("my notes\n")

    with pytest.raises(InputError, match=r"notes\.txt: there is no notes\.txt\.meta\.json beside it"):
        caption([str(photos)], lambda: captioner, dict, out=out)

    assert out.read_text() == "my notes\n"


def test_the_model_is_not_loaded_when_there_is_nothing_to_do(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    caption([str(photos)], lambda: captioner, dict, out=out)

    def refuse() -> Captioner:
        raise AssertionError("loaded")

    assert caption([str(photos)], refuse, dict, out=out).already == 4


def test_a_dataset_is_captioned_by_image_id_in_its_order(captioner: Captioner, tmp_path: Path):
    dataset = write_tiny_dataset(tmp_path / "data", train=2, validation=5)
    images = load_splits(recipe.Data(path=str(dataset)))["validation"]

    predictions = caption_dataset(captioner, images)

    assert list(predictions) == [image.image_id for image in images]
    assert predictions == {image.image_id: captioner.caption(image.decode())[0] for image in images}


def test_a_caption_line_is_one_line_whatever_the_caption_holds():
    line = prediction_line("a\nb.png", "x\ny\u2028z")

    assert line.count("\n") == 1
    assert json.loads(line) == {"image_id": "a\nb.png", "caption": "x\ny\u2028z"}


def test_a_link_to_an_image_is_an_image_of_its_own_name(photos: Path):
    shutil.copy(photos / "a.png", photos / "d.png")
    (photos / "e.png").symlink_to(photos / "d.png")

    assert [path.name for path in paths_of(photos / "[de].png")] == ["d.png", "e.png"]


def sampled(captioner: Captioner, images: list[ImageFile]) -> list[str]:
    written: list[str] = []
    caption_files(captioner, images, lambda _, text: written.append(text))
    return written


def test_files_in_two_batches_do_not_share_what_sampling_draws(captioner: Captioner, photos: Path):
    sampler = captioner.with_decoding(sample=True, max_new_tokens=12, images_per_batch=1)
    for number in range(4):
        shutil.copy(photos / "a.png", photos / f"same-{number}.png")

    captions = sampled(sampler, find_images([str(photos / "same-*.png")]))

    assert len(set(captions)) == 4
    assert captions == sampled(sampler, find_images([str(photos / "same-*.png")]))


def test_a_datasets_batches_do_not_share_what_sampling_draws(captioner: Captioner, tmp_path: Path):
    dataset = write_tiny_dataset(tmp_path / "data", train=2, validation=4)
    (image, *_) = load_splits(recipe.Data(path=str(dataset)))["validation"]
    images = [replace(image, image_id=str(number)) for number in range(4)]
    sampler = captioner.with_decoding(sample=True, max_new_tokens=12, images_per_batch=1)

    assert len(set(caption_dataset(sampler, images).values())) == 4
