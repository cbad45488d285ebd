"""What is stored comes back as it was, or is dropped with a line; never anything else."""

import shutil
from pathlib import Path

import pytest
import torch

from captioncrafter.errors import DataError
from captioncrafter.features.key import FeatureKey
from captioncrafter.features.store import FeatureStore
from captioncrafter.model import weights
from stored import KEY, drawn, stored
from tiny import flip_byte


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_a_store_remembers_which_row_is_whose(root: Path):
    features = drawn(3)
    stored(root, "abc", features)

    store = FeatureStore.open(root, KEY)

    assert torch.equal(store.rows(["c", "a", "a"]), features[[2, 0, 0]])
    assert "b" in store
    assert "d" not in store


def test_missing_names_each_lacking_image_once_in_order(root: Path):
    stored(root, "ab", drawn(2))

    missing = FeatureStore.open(root, KEY).missing(["d", "a", "c", "d"])

    assert missing == ["d", "c"]


@pytest.mark.parametrize("stored_as", ["float16", "bfloat16", "float32"])
def test_features_come_back_in_the_dtype_they_were_stored_in(root: Path, stored_as: str):
    features = drawn(2)
    stored(root, "ab", features, stored_as=stored_as)

    rows = FeatureStore.open(root, KEY).rows(["a", "b"])

    assert rows.dtype == getattr(torch, stored_as)
    assert torch.equal(rows, features.to(rows.dtype))


def test_auto_is_float16_where_the_range_allows_it(root: Path):
    stored(root, "ab", drawn(2), stored_as="auto")

    assert FeatureStore.open(root, KEY).rows(["a"]).dtype == torch.float16


def test_auto_is_bfloat16_beyond_the_range_of_float16(root: Path):
    stored(root, "ab", drawn(2) * 1e5, stored_as="auto")

    rows = FeatureStore.open(root, KEY).rows(["a"])

    assert rows.dtype == torch.bfloat16
    assert rows.isfinite().all()


def test_parts_of_different_dtypes_are_read_together(root: Path):
    small, large = drawn(1), drawn(1) * 1e5
    stored(root, "a", small, stored_as="auto")
    stored(root, "b", large, stored_as="auto")

    rows = FeatureStore.open(root, KEY).rows(["a", "b"])

    assert rows.dtype == torch.float32
    assert torch.equal(rows, torch.cat([small.half().float(), large.bfloat16().float()]))


def test_parts_whose_rows_have_different_lengths_are_padded_behind(root: Path):
    short, long = torch.ones(1, 2, 4), torch.ones(1, 5, 4)
    stored(root, "a", short)
    stored(root, "b", long)

    rows = FeatureStore.open(root, KEY).rows(["a", "b"])

    assert torch.equal(rows, torch.cat([torch.nn.functional.pad(short, (0, 0, 0, 3)), long]))


def test_rows_of_different_lengths_and_dtypes_are_read_together(root: Path):
    stored(root, "a", torch.ones(1, 2, 4), stored_as="float16")
    stored(root, "b", torch.ones(1, 3, 4), stored_as="bfloat16")

    rows = FeatureStore.open(root, KEY).rows(["a", "b"])

    assert rows.dtype == torch.float32
    assert rows.sum((1, 2)).tolist() == [8, 12]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_feature_that_is_not_finite_is_refused_with_its_image(root: Path, value: float):
    features = drawn(3)
    features[1, 0, 0] = value

    with pytest.raises(DataError, match="non-finite features for image b"):
        FeatureStore.open(root, KEY).add(list("abc"), features, stored_as="float32")


def test_a_feature_beyond_the_range_of_its_storage_is_refused_with_its_image(root: Path):
    features = drawn(3)
    features[2, 0, 0] = 1e5

    with pytest.raises(DataError, match="features of image c are beyond the range of float16"):
        FeatureStore.open(root, KEY).add(list("abc"), features, stored_as="float16")


def test_nothing_refused_is_left_on_disk(root: Path):
    store = FeatureStore.open(root, KEY)

    with pytest.raises(DataError):
        store.add(["a"], drawn(1) * float("nan"), stored_as="float32")

    assert [file.name for file in store.folder.iterdir()] == ["key.json"]


def test_a_flipped_byte_drops_the_part_with_a_line(root: Path, capsys: pytest.CaptureFixture[str]):
    kept, damaged = stored(root, "ab", drawn(2)), stored(root, "cd", drawn(2, seed=1))
    flip_byte(damaged, damaged.stat().st_size - 3)

    missing = FeatureStore.open(root, KEY).missing("abcd")

    assert missing == ["c", "d"]
    assert (kept.exists(), damaged.exists()) == (True, False)
    assert f"{damaged}: damaged features; they are computed again" in capsys.readouterr().err


def test_an_image_that_was_never_stored_is_refused_with_its_name(root: Path):
    stored(root, "ab", drawn(2))
    store = FeatureStore.open(root, KEY)

    with pytest.raises(DataError, match=f"{store.folder}: the features of image d are missing"):
        store.rows(["a", "d"])


@pytest.mark.parametrize("kept_bytes", [0, 5, 60, -1])
def test_a_truncated_part_is_dropped_with_a_line(root: Path, capsys: pytest.CaptureFixture[str], kept_bytes: int):
    file = stored(root, "ab", drawn(2))
    file.write_bytes(file.read_bytes()[:kept_bytes])

    missing = FeatureStore.open(root, KEY).missing("ab")

    assert missing == ["a", "b"]
    assert f"{file}: not a whole part" in capsys.readouterr().err


def test_no_flipped_byte_anywhere_gives_other_features(root: Path):
    features = drawn(2)
    file = stored(root, "ab", features)
    whole = file.read_bytes()

    for at in range(len(whole)):
        file.write_bytes(whole)
        flip_byte(file, at)
        store = FeatureStore.open(root, KEY)
        there = [image for image in "ab" if image not in store.missing("ab")]
        assert all(torch.equal(store.rows([image])[0], features["ab".index(image)]) for image in there), at


def test_a_dropped_part_is_made_good_by_the_next(root: Path):
    features = drawn(2)
    damaged = stored(root, "ab", features)
    flip_byte(damaged, damaged.stat().st_size - 1)
    store = FeatureStore.open(root, KEY)

    store.add(store.missing("ab"), features, stored_as="float32")

    assert FeatureStore.open(root, KEY).missing("ab") == []
    assert torch.equal(FeatureStore.open(root, KEY).rows(["b"])[0], features[1])


def test_a_part_that_was_never_finished_is_not_seen(root: Path):
    file = stored(root, "ab", drawn(2))
    shutil.copy(file, file.with_name(f".{file.name}.123.tmp"))
    file.unlink()

    assert FeatureStore.open(root, KEY).missing("ab") == ["a", "b"]


def test_features_of_another_key_are_not_seen(root: Path):
    stored(root, "ab", drawn(2))

    assert FeatureStore.open(root, FeatureKey({"other": "facts"})).missing("ab") == ["a", "b"]


def test_the_facts_stand_beside_the_features_for_a_reader(root: Path):
    store = FeatureStore.open(root, KEY)

    assert (store.folder / "key.json").read_text() == '{\n  "some": "facts"\n}\n'


def test_a_part_is_a_plain_safetensors_file(root: Path):
    features = drawn(2)

    (tensor,) = weights.read_header(stored(root, "ab", features))

    assert (tensor.name, tensor.dtype, tensor.shape) == ("features", "F32", (2, 2, 4))
