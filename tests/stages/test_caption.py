"""Captions of image files: into one file, beside the images, gone on with."""

import json
from pathlib import Path

import pytest

from captioncrafter.errors import InputError
from captioncrafter.generation.captioner import Captioner
from captioncrafter.stages.caption import caption
from tiny import picture


@pytest.fixture(scope="module")
def captioner(tiny_checkpoint: Path) -> Captioner:
    return Captioner.load(str(tiny_checkpoint), precision="fp32", device="cpu").with_decoding(
        num_beams=1, max_new_tokens=4
    )


def test_out_holds_one_line_an_image(captioner: Captioner, photos: Path, tmp_path: Path):
    caption([str(photos)], lambda: captioner, out=tmp_path / "captions.jsonl")

    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == ["0.png", "1.png", "2.png"]


def test_what_out_already_holds_is_passed_over_and_counted(
    captioner: Captioner, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "captions.jsonl"
    caption([str(photos / "0.png")], lambda: captioner, out=out)

    result = caption([str(photos)], lambda: captioner, out=out)

    assert (result.already, result.captioned) == (1, 2)
    assert "1 of 3 images have a caption" in capsys.readouterr().err


def test_nothing_is_loaded_when_everything_is_done(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    caption([str(photos)], lambda: captioner, out=out)

    def load() -> Captioner:
        raise AssertionError("loaded for nothing")

    assert caption([str(photos)], load, out=out).already == 3


def test_two_images_that_would_share_a_sidecar_are_refused(captioner: Captioner, photos: Path):
    (photos / "0.jpg").write_bytes(picture(0))

    with pytest.raises(InputError, match=r"would share the sidecar 0\.txt"):
        caption([str(photos)], lambda: captioner, sidecar=True)

    assert not list(photos.glob("*.txt"))


def test_out_and_sidecar_exclude_each_other(captioner: Captioner, photos: Path, tmp_path: Path):
    with pytest.raises(InputError, match="exclude each other"):
        caption([str(photos)], lambda: captioner, out=tmp_path / "captions.jsonl", sidecar=True)
