"""An open store lives with what others do to its folder: they add parts, damage them, shorten them, delete them."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from captioncrafter.errors import DataError
from captioncrafter.features.store import FeatureStore
from stored import KEY, drawn, stored
from tiny import flip_byte


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_a_byte_that_flips_while_the_store_is_open_is_noticed_in_its_row_and_in_no_other(root: Path):
    features = drawn(2)
    file = stored(root, "ab", features)
    store = FeatureStore.open(root, KEY)
    assert store.missing("ab") == []

    flip_byte_in_place(file, file.stat().st_size - 3)

    assert torch.equal(store.rows(["a"])[0], features[0])
    with pytest.raises(DataError, match=f"{file}: the features of image b are damaged or were deleted"):
        store.rows(["b"])


def flip_byte_in_place(file: Path, at: int) -> None:
    """Unlike `flip_byte`, leaves the file as long as it is at all times: whoever has it mapped sees the change."""
    with file.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


def shortened(file: Path) -> None:
    os.truncate(file, 5000)


SPOILED: dict[str, Callable[[Path], None]] = {"truncated": shortened, "deleted": Path.unlink}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_part_that_goes_while_the_store_is_open_is_an_error_and_no_crash(root: Path, spoil: str):
    file = stored(root, "abc", torch.randn(3, 64, 64))
    store = FeatureStore.open(root, KEY)
    SPOILED[spoil](file)

    child = multiprocessing.get_context("fork").Process(target=_refuses, args=(store, file))
    child.start()
    child.join(60)

    assert child.exitcode == 0  # -7 is SIGBUS


def _refuses(store: FeatureStore, file: Path) -> None:
    with pytest.raises(DataError, match=f"{file}: the features of image c are damaged or were deleted"):
        store.rows(["c"])


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_part_that_goes_before_it_was_checked_counts_as_missing(
    root: Path, spoil: str, capsys: pytest.CaptureFixture[str]
):
    file = stored(root, "abc", torch.randn(3, 64, 64))
    store = FeatureStore.open(root, KEY)
    SPOILED[spoil](file)

    assert store.missing("abc") == ["a", "b", "c"]
    assert f"{file}: damaged features; they are computed again" in capsys.readouterr().err


def test_what_another_process_stores_is_there_after_a_refresh(root: Path):
    features = drawn(3)
    stored(root, "a", features[:1])
    store = FeatureStore.open(root, KEY)
    stored(root, "bc", features[1:])
    assert store.missing("abc") == ["b", "c"]

    store.refresh()

    assert store.missing("abc") == []
    assert torch.equal(store.rows(["a", "b", "c"]), features)


def test_a_refresh_reads_no_part_twice(root: Path):
    store = FeatureStore.open(root, KEY)
    for seed in range(12):  # the names of parts are random: one of the others comes last among them
        store.add(["a"], drawn(1, seed=seed), stored_as="float32")

    store.refresh()

    assert torch.equal(store.rows(["a"]), drawn(1, seed=11))


def test_a_part_that_another_process_replaced_is_read_anew_after_a_refresh(root: Path):
    features = drawn(2)
    damaged = stored(root, "ab", features)
    store = FeatureStore.open(root, KEY)
    flip_byte(damaged, damaged.stat().st_size - 1)
    other = FeatureStore.open(root, KEY)
    other.add(other.missing("ab"), features, stored_as="float32")

    store.refresh()

    assert torch.equal(store.rows(["a", "b"]), features)


def test_a_part_that_goes_while_the_folder_is_read_is_passed_over(root: Path, capsys: pytest.CaptureFixture[str]):
    file = stored(root, "ab", drawn(2))
    file.with_name("gone.safetensors").symlink_to("nowhere")

    assert FeatureStore.open(root, KEY).missing("ab") == []
    assert capsys.readouterr().err == ""


def test_several_processes_fill_one_folder_at_the_same_time(root: Path):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_fill, args=(root, name)) for name in "abc"]
    for child in children:
        child.start()
    for child in children:
        child.join(60)

    store = FeatureStore.open(root, KEY)

    assert [child.exitcode for child in children] == [0, 0, 0]
    assert store.missing(f"{name}{number}" for name in "abc" for number in range(5)) == []


def _fill(root: Path, name: str) -> None:
    torch.set_num_threads(1)  # threads of the parent do not live on in a forked process
    store = FeatureStore.open(root, KEY)
    for number in range(5):
        store.add([f"{name}{number}"], torch.full((1, 2, 4), float(number)), stored_as="float32")
