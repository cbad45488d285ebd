"""Captions of image files: into one file, beside the images, gone on with."""

import json
from pathlib import Path

import pytest

from captioncrafter.errors import InputError
from captioncrafter.generation.captioner import Captioner
from captioncrafter.generation.origin import Origin
from captioncrafter.stages.caption import caption
from tiny import picture

ORIGIN = Origin.of().with_decoding(num_beams=1, max_new_tokens=4)
"""What the captions are said to come of; the captioner is smaller."""


@pytest.fixture(scope="module")
def captioner(tiny_checkpoint: Path) -> Captioner:
    return Captioner.load(str(tiny_checkpoint), precision="fp32", device="cpu").with_decoding(
        num_beams=1, max_new_tokens=4
    )


def test_out_holds_one_line_an_image(captioner: Captioner, photos: Path, tmp_path: Path):
    caption([str(photos)], lambda: captioner, ORIGIN.describe, out=tmp_path / "captions.jsonl")

    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == ["0.png", "1.png", "2.png"]


def test_what_out_already_holds_is_passed_over_and_counted(
    captioner: Captioner, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "captions.jsonl"
    caption([str(photos / "0.png")], lambda: captioner, ORIGIN.describe, out=out)

    result = caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)

    assert (result.already, result.captioned) == (1, 2)
    assert "1 of 3 images has a caption" in capsys.readouterr().err


def test_nothing_is_loaded_when_everything_is_done(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)

    def load() -> Captioner:
        raise AssertionError("loaded for nothing")

    assert caption([str(photos)], load, ORIGIN.describe, out=out).already == 3


def test_two_images_that_would_share_a_sidecar_are_refused(captioner: Captioner, photos: Path):
    (photos / "0.jpg").write_bytes(picture(0))

    with pytest.raises(InputError, match=r"would share the sidecar 0\.txt"):
        caption([str(photos)], lambda: captioner, ORIGIN.describe, sidecar=True)

    assert not list(photos.glob("*.txt"))


def test_out_and_sidecar_exclude_each_other(captioner: Captioner, photos: Path, tmp_path: Path):
    with pytest.raises(InputError, match="exclude each other"):
        caption([str(photos)], lambda: captioner, ORIGIN.describe, out=tmp_path / "captions.jsonl", sidecar=True)


def test_what_the_captions_come_of_is_kept_beside_out(captioner: Captioner, photos: Path, tmp_path: Path):
    caption([str(photos)], lambda: captioner, ORIGIN.describe, out=tmp_path / "captions.jsonl")

    kept = json.loads((tmp_path / "captions.jsonl.meta.json").read_text())
    assert kept["origin"] == ORIGIN.describe()
    assert kept["images"] == {f"{number}.png": str(photos / f"{number}.png") for number in range(3)}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt": "a drawing of"}, r"another prompt \('.*' there, 'a drawing of' now\)"),
        ({"weights": "0"}, "another weights"),
        ({"adapter": "/b", "adapter_weights": "1"}, r"another adapter .*adapter_weights \(None there, '1' now\)"),
        ({"weights": None, "base": "someone/other"}, "another base"),
        ({"decoding": {"num_beams": 4}}, r"another decoding \(num_beams 1 there, 4 now\)"),
    ],
    ids=str,
)
def test_captions_of_another_origin_are_not_gone_on_with(
    captioner: Captioner, photos: Path, tmp_path: Path, changes: dict[str, object], named: str
):
    out = tmp_path / "captions.jsonl"
    caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)
    before = out.read_bytes()

    with pytest.raises(InputError, match=f"captions.jsonl: holds captions of {named}.* Give another --out"):
        caption([str(photos)], lambda: captioner, lambda: ORIGIN.describe() | changes, out=out)

    assert out.read_bytes() == before


def test_the_same_weights_are_gone_on_with_wherever_they_lie(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)
    moved = {"base": "/elsewhere/base", "adapter": "/elsewhere/adapter"}

    assert caption([str(photos)], lambda: captioner, lambda: ORIGIN.describe() | moved, out=out).already == 3


def test_another_photo_of_the_same_name_is_not_passed_over(captioner: Captioner, photos: Path, tmp_path: Path):
    out, other = tmp_path / "captions.jsonl", tmp_path / "other"
    caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)
    other.mkdir()
    (other / "1.png").write_bytes(picture(7))

    with pytest.raises(InputError, match=r"its caption of 1\.png is of .*photos/1\.png, not of .*other/1\.png"):
        caption([str(other)], lambda: captioner, ORIGIN.describe, out=out)


def test_photos_of_two_folders_go_into_one_file(captioner: Captioner, photos: Path, tmp_path: Path):
    out, other = tmp_path / "captions.jsonl", tmp_path / "other"
    other.mkdir()
    (other / "7.png").write_bytes(picture(7))
    for folder in (photos, other):
        caption([str(folder)], lambda: captioner, ORIGIN.describe, out=out)

    results = [caption([str(folder)], lambda: captioner, ORIGIN.describe, out=out) for folder in (photos, other)]

    assert [result.already for result in results] == [3, 1]


def test_a_file_that_something_else_wrote_is_left_as_it_is(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    out.write_text('{"image_id": "0.png", "caption": "a"}\n{"image_id"')

    with pytest.raises(InputError, match=r"no captions\.jsonl\.meta\.json beside it"):
        caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)

    assert out.read_text().endswith('{"image_id"')


def test_an_empty_file_is_written_to(captioner: Captioner, photos: Path, tmp_path: Path):
    (tmp_path / "captions.jsonl").touch()

    assert caption([str(photos)], lambda: captioner, ORIGIN.describe, out=tmp_path / "captions.jsonl").captioned == 3


def test_a_caption_that_the_ledger_does_not_know_is_refused(captioner: Captioner, photos: Path, tmp_path: Path):
    out = tmp_path / "captions.jsonl"
    caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)
    with out.open("a") as file:
        file.write('{"image_id": "9.png", "caption": "a"}\n')

    with pytest.raises(InputError, match=r"knows nothing of its caption of 9\.png"):
        caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)


@pytest.mark.parametrize("text", ["[]", '{"origin": {}}', "{"])
def test_a_damaged_ledger_is_refused_by_name(captioner: Captioner, photos: Path, tmp_path: Path, text: str):
    out = tmp_path / "captions.jsonl"
    caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)
    (tmp_path / "captions.jsonl.meta.json").write_text(text)

    with pytest.raises(InputError, match=r"captions\.jsonl\.meta\.json: not"):
        caption([str(photos)], lambda: captioner, ORIGIN.describe, out=out)


def test_a_folder_as_out_is_refused(captioner: Captioner, photos: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"a folder, and --out takes the file to write"):
        caption([str(photos)], lambda: captioner, ORIGIN.describe, out=tmp_path)


def test_what_keeps_nothing_gets_no_ledger(captioner: Captioner, photos: Path):
    assert caption([str(photos)], lambda: captioner, ORIGIN.describe, out=Path("/dev/null")).captioned == 3
