"""The dataset folder as written: `datasets` reads it without us."""

import io
from pathlib import Path

import datasets
import pytest
from PIL import Image

from captioncrafter.data import shards
from captioncrafter.data.example import Example
from captioncrafter.data.inspection import Inspected, inspect
from captioncrafter.data.shards import write_splits
from captioncrafter.errors import DataError
from sources import photo


def inspected(folder: Path, count: int) -> list[Inspected]:
    examples = []
    for number in range(count):
        file = folder / f"{number}.jpg"
        file.write_bytes(photo(number % 7))
        examples.append(Example(f"id-{number}", file, (f"photo {number}", "a photo")))
    return inspect(examples)[0]


def test_plain_datasets_reads_ids_captions_and_pictures(tmp_path: Path):
    images = inspected(tmp_path, 3)

    write_splits(tmp_path / "d", {"train": images[:2], "validation": images[2:]})

    read = datasets.load_from_disk(str(tmp_path / "d"))
    assert isinstance(read, datasets.DatasetDict)
    assert {name: len(split) for name, split in read.items()} == {"train": 2, "validation": 1}
    assert read["train"][1]["image_id"] == "id-1"
    assert read["train"][1]["captions"] == ["photo 1", "a photo"]
    assert read["train"][1]["image"].tobytes() == Image.open(io.BytesIO(photo(1))).tobytes()


def test_images_are_stored_byte_for_byte(tmp_path: Path):
    write_splits(tmp_path / "d", {"train": inspected(tmp_path, 2)})

    split = datasets.load_from_disk(str(tmp_path / "d"))["train"].cast_column("image", datasets.Image(decode=False))
    assert [row["image"] for row in split] == [{"bytes": photo(n), "path": f"{n}.jpg"} for n in range(2)]


def test_what_was_read_can_be_mapped_filtered_and_saved_again(tmp_path: Path):
    write_splits(tmp_path / "d", {"train": inspected(tmp_path, 3), "test": []})

    read = datasets.load_from_disk(str(tmp_path / "d"))
    few = read.filter(lambda row: row["image_id"] != "id-0").map(lambda row: {"words": len(row["captions"])})
    few.save_to_disk(str(tmp_path / "few"))

    assert datasets.load_from_disk(str(tmp_path / "few"))["train"]["image_id"] == ["id-1", "id-2"]


def test_an_empty_split_is_left_out(tmp_path: Path):
    write_splits(tmp_path / "d", {"train": inspected(tmp_path, 1), "validation": [], "test": []})

    assert list(datasets.load_from_disk(str(tmp_path / "d"))) == ["train"]


def test_more_images_than_a_batch_keep_their_order(tmp_path: Path):
    write_splits(tmp_path / "d", {"train": inspected(tmp_path, 230)})

    read = datasets.load_from_disk(str(tmp_path / "d"))["train"]
    assert read["image_id"] == [f"id-{number}" for number in range(230)]


def test_large_splits_are_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = inspected(tmp_path, 5)
    monkeypatch.setattr(shards, "_SHARD_BYTES", images[0].size + images[1].size)

    write_splits(tmp_path / "d", {"train": images})

    assert len(list((tmp_path / "d" / "train").glob("data-*-of-*.arrow"))) > 1
    read = datasets.load_from_disk(str(tmp_path / "d"))["train"]
    assert read["image_id"] == [f"id-{number}" for number in range(5)]


def test_other_images_give_another_fingerprint_under_which_datasets_caches(tmp_path: Path):
    images = inspected(tmp_path, 3)
    for name, chosen in (("a", images[:2]), ("b", images[:2]), ("c", images[1:])):
        write_splits(tmp_path / name, {"train": chosen})

    prints = [datasets.load_from_disk(str(tmp_path / name))["train"]._fingerprint for name in "abc"]

    assert prints[0] == prints[1] != prints[2]


def test_an_image_that_changed_since_it_was_looked_at_is_refused(tmp_path: Path):
    images = inspected(tmp_path, 2)
    (tmp_path / "1.jpg").write_bytes(photo(5))

    with pytest.raises(DataError) as refused:
        write_splits(tmp_path / "d", {"train": images})

    assert str(refused.value) == (f"{tmp_path / '1.jpg'}: changed while the dataset was being made. Prepare it again.")


def test_an_image_that_went_away_since_is_refused_by_name(tmp_path: Path):
    images = inspected(tmp_path, 2)
    (tmp_path / "1.jpg").unlink()

    with pytest.raises(DataError, match="id-1: cannot be read"):
        write_splits(tmp_path / "d", {"train": images})
