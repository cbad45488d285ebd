"""`captioncrafter prepare`, from somebody's folder to a dataset folder with its audit."""

import io
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from captioncrafter.data.audit import Audit
from captioncrafter.errors import CaptionCrafterError, DataError
from captioncrafter.stages.prepare import prepare
from sources import LISTS, add_lines, photo, write_flickr8k, write_kaggle


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_flickr8k(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def real(flickr8k: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Audit, Path]]:
    """The audit and dataset folder of real Flickr8k."""
    folder = tmp_path_factory.mktemp("real") / "flickr8k"
    yield prepare(flickr8k, folder), folder
    shutil.rmtree(folder)


@contextmanager
def disk_that_is_full_after(limit: int) -> Iterator[None]:
    """Files of this process cannot grow beyond `limit` bytes, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rows_of(out: Path) -> dict[str, list[str]]:
    """The image ids of each split, as plain `datasets` reads them."""
    read = datasets.load_from_disk(str(out))
    assert isinstance(read, datasets.DatasetDict)
    return {name: list(split["image_id"]) for name, split in read.items()}


def audit_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "audit.json").read_text(encoding="utf-8"))


def test_real_flickr8k_has_six_thousand_photos_to_train_on_and_one_thousand_to_validate(real: tuple[Audit, Path]):
    audit, folder = real

    assert {name: split.images for name, split in audit.splits.items()} == {
        "train": 6000,
        "validation": 1000,
        "test": 0,
    }
    assert {name: len(ids) for name, ids in rows_of(folder).items()} == {"train": 6000, "validation": 1000}
    assert audit.splits["train"].captions == 30_000


def test_real_flickr8ks_five_captions_of_a_photo_that_is_not_there_are_named(real: tuple[Audit, Path]):
    named = audit_of(real[1])["captions_without_image"]

    assert {line["caption_id"].split(".jpg")[0] for line in named} == {"2258277193_586949ec62"}
    assert [line["place"] for line in named] == [f"Flickr8k.token.txt, line {number}" for number in range(5791, 5796)]


def test_real_flickr8k_has_nothing_to_set_aside_and_no_leak(real: tuple[Audit, Path]):
    values = audit_of(real[1])

    assert (values["images_set_aside"], values["leaks"]) == ([], [])


def test_the_dataset_is_read_by_plain_datasets_with_photos_ids_and_captions(source: Path, out: Path):
    prepare(source, out)

    row = datasets.load_from_disk(str(out))["validation"][0]
    assert row["image_id"] == "3.jpg"
    assert row["captions"] == ["Photo 3 , told 0 .", "Photo 3 , told 1 ."]
    assert row["image"].tobytes() == Image.open(io.BytesIO(photo(3))).tobytes()


def test_the_audit_beside_the_dataset_is_the_one_given_back(source: Path, out: Path):
    audit = prepare(source, out)

    assert audit_of(out) == json.loads(json.dumps(audit.to_json()))


def test_lists_decide_the_splits(source: Path, out: Path):
    audit = prepare(source, out, seed=5)

    assert rows_of(out) == {"train": ["0.jpg", "1.jpg", "2.jpg"], "validation": ["3.jpg"], "test": ["4.jpg"]}
    assert (audit.seed, audit.splits_from) == (None, ", ".join(LISTS.values()))


def test_without_lists_a_seed_decides_them_and_this_is_said(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
):
    audit = prepare(write_kaggle(tmp_path / "kaggle", count=16), out, seed=5)

    assert {name: len(ids) for name, ids in rows_of(out).items()} == {"train": 12, "validation": 2, "test": 2}
    assert (audit.seed, audit.splits_from) == (5, "seed 5, by image")
    assert "Scores on this test split do not compare with published ones" in capsys.readouterr().err


def test_images_that_cannot_be_used_are_set_aside_with_the_reason_and_the_rest_goes_on(source: Path, out: Path):
    photos = source / "Flicker8k_Dataset"
    (photos / "0.jpg").write_bytes(photo(0)[:-30])
    (photos / "1.jpg").write_bytes(b"")
    (photos / "3.jpg").write_bytes(b"404 Not Found")
    secret = source.parent / "secret.jpg"
    secret.write_bytes(photo(9))
    (photos / "4.jpg").unlink()
    (photos / "4.jpg").symlink_to(secret)

    audit = prepare(source, out)

    assert rows_of(out) == {"train": ["2.jpg"]}
    assert audit.set_aside == 4
    reasons = {one["image"]: one["reason"] for one in audit_of(out)["images_set_aside"]}
    assert list(reasons) == ["4.jpg", "0.jpg", "1.jpg", "3.jpg"]
    assert reasons["1.jpg"] == "empty file"
    assert reasons["0.jpg"].startswith("damaged (")
    assert reasons["3.jpg"].startswith("not an image of a known format")
    assert reasons["4.jpg"].startswith("is a link to a place outside the image folder")


def test_what_is_left_out_is_said_in_one_counted_line_a_kind(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
):
    add_lines(source / "Flickr8k.token.txt", *(f"gone.jpg#{order}\tA dog ." for order in range(7)), "0.jpg#2\t ")
    (source / "Flicker8k_Dataset" / "1.jpg").write_bytes(b"")
    (source / "Flicker8k_Dataset" / "holiday.jpg").write_bytes(photo(8))
    add_lines(source / LISTS["train"], "never.jpg")

    prepare(source, out)

    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said == [
        "warning: 1 image set aside: 1.jpg (empty file)",
        "warning: 7 captions without an image: gone.jpg#0, gone.jpg#1, gone.jpg#2, gone.jpg#3, gone.jpg#4 and 2 more",
        "warning: 1 blank caption: 0.jpg#2",
        "warning: 1 image without captions: holiday.jpg",
        "warning: 1 image that a split list names and that is not there: never.jpg",
    ]


def test_a_photo_that_stands_in_two_splits_is_a_leak_and_is_said(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
):
    (source / "Flicker8k_Dataset" / "4.jpg").write_bytes(photo(0))

    audit = prepare(source, out)

    assert audit.leaks == ({"0.jpg": "train", "4.jpg": "test"},)
    assert "warning: 1 image that stands in two splits: 0.jpg (train) = 4.jpg (test)" in capsys.readouterr().err


def test_exact_copies_never_leak_between_drawn_splits(tmp_path: Path, out: Path):
    source = write_kaggle(tmp_path / "kaggle", count=16)
    for number in range(8, 16):
        (source / "Images" / f"{number}.jpg").write_bytes(photo(number - 8))

    audit = prepare(source, out)

    assert len(audit.identical_images) == 8
    assert audit.leaks == ()


def test_an_animation_is_taken_by_its_first_frame_and_this_is_said(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
):
    frames = [Image.new("L", (4, 4), level) for level in (0, 128)]
    frames[0].save(source / "Flicker8k_Dataset" / "0.jpg", "GIF", save_all=True, append_images=frames[1:])

    audit = prepare(source, out)

    assert audit.first_frame_only == ("0.jpg",)
    assert "1 animation of which the first frame was taken: 0.jpg" in capsys.readouterr().err


def test_a_file_name_that_is_not_utf8_is_named_in_the_audit(source: Path, out: Path):
    folder = os.fsencode(source / "Flicker8k_Dataset")
    Path(os.fsdecode(folder + b"/caf\xe9.jpg")).write_bytes(photo(7))

    prepare(source, out)

    assert audit_of(out)["images_without_captions"] == ["caf\\xe9.jpg"]


def test_a_source_of_which_nothing_can_be_used_is_refused_with_reasons(source: Path, out: Path):
    for file in (source / "Flicker8k_Dataset").iterdir():
        file.write_bytes(b"")

    with pytest.raises(DataError) as refused:
        prepare(source, out)

    assert str(refused.value) == (
        f"{source}: none of its 5 captioned images can be used. 0.jpg: empty file; 1.jpg: empty file; 2.jpg: empty "
        "file; 3.jpg: empty file; 4.jpg: empty file."
    )
    assert not out.exists()


def test_a_dataset_that_is_there_is_not_replaced_unasked(source: Path, out: Path):
    prepare(source, out)
    before = (out / "audit.json").read_bytes()

    with pytest.raises(DataError) as refused:
        prepare(source, out)

    assert str(refused.value) == (
        f"{out}: a dataset is already there. Replace it with --overwrite, or choose another --out."
    )
    assert (out / "audit.json").read_bytes() == before


def test_overwrite_replaces_an_older_dataset_whole(source: Path, out: Path, tmp_path: Path):
    prepare(write_kaggle(tmp_path / "kaggle", count=16), out)

    prepare(source, out, overwrite=True)

    assert list(rows_of(out)) == ["train", "validation", "test"]
    assert audit_of(out)["layout"] == "flickr8k"
    assert {entry.name for entry in tmp_path.iterdir()} == {"source", "kaggle", "out"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_anything_else_in_it_is_left_alone(source: Path, out: Path, overwrite: bool):
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work")

    with pytest.raises(DataError, match="already there, and not a dataset that prepare made"):
        prepare(source, out, overwrite=overwrite)

    assert (out / "thesis.txt").read_text() == "three years of work"


def test_a_file_in_the_place_of_the_dataset_is_left_alone(source: Path, out: Path):
    out.write_text("notes")

    with pytest.raises(DataError, match="already there"):
        prepare(source, out, overwrite=True)

    assert out.read_text() == "notes"


def test_an_empty_folder_is_filled(source: Path, out: Path):
    out.mkdir()

    prepare(source, out)

    assert len(rows_of(out)["train"]) == 3


def test_a_link_to_a_folder_on_another_disk_stays_a_link(source: Path, out: Path, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    out.symlink_to(tmp_path / "disk")

    prepare(source, out)
    prepare(source, out, overwrite=True)

    assert out.is_symlink()
    assert len(rows_of(tmp_path / "disk")["train"]) == 3


def test_a_place_below_a_file_is_refused_before_any_image_is_looked_at(source: Path, tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(DataError) as refused:
        prepare(source, tmp_path / "file" / "out")

    assert str(refused.value) == (
        f"{tmp_path / 'file' / 'out'}: cannot be made ({tmp_path / 'file'} is a file). Choose another --out."
    )


def test_a_disk_that_is_too_full_is_told_before_anything_is_written(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(source)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))

    with pytest.raises(CaptionCrafterError) as refused:
        prepare(source, out)

    assert refused.value.exit_code == 1
    assert str(refused.value).startswith(f"{out}: the dataset needs about 0.0 MB and the disk has 0.0 MB free.")
    assert not out.exists()


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(source: Path, out: Path, tmp_path: Path):
    with pytest.raises(OSError, match="File too large"), disk_that_is_full_after(3000):
        prepare(source, out)

    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_a_disk_that_fills_up_on_the_way_leaves_the_older_dataset(source: Path, out: Path, tmp_path: Path):
    prepare(source, out)

    with pytest.raises(OSError, match="File too large"), disk_that_is_full_after(3000):
        prepare(source, out, overwrite=True)

    assert len(rows_of(out)["train"]) == 3
    assert {entry.name for entry in tmp_path.iterdir()} == {"source", "out"}
