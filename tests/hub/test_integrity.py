"""Weights are what the hub promised, byte for byte, before anything is computed with them."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from captioncrafter.errors import CheckpointError
from captioncrafter.model import checkpoint
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.integrity import check_hashes, promised_hash
from captioncrafter.model.loading import load_model
from hub_server import Client, Hub, Repository
from tiny import flip_byte

SHARD = "model-00002-of-00002.safetensors"


def load_projection(folder: Path) -> None:
    found = checkpoint.Checkpoint("some/base", None, folder, on_hub=True)
    load_model(found, arithmetic=Arithmetic(torch.float32), device=torch.device("cpu"), parts=("language_projection",))


@pytest.fixture(scope="module")
def fetched(hub: Hub, client: Client, published: Path) -> Path:
    """The folder of the hub cache."""
    hub.repositories["some/fetched"] = Repository.of(published)
    return client.folder("some/fetched")


@pytest.fixture
def cached(fetched: Path, tmp_path: Path) -> Path:
    """A copy of that repository's cache, links and all, to damage."""
    copy = Path(shutil.copytree(fetched.parents[1], tmp_path / "models--some--fetched", symlinks=True))
    return copy / "snapshots" / fetched.name


def test_a_mirror_that_sends_other_bytes_is_found_out_by_the_hash(hub: Hub, client: Client, published: Path):
    content = bytearray((published / SHARD).read_bytes())
    content[-1] ^= 1
    right = hashlib.sha256((published / SHARD).read_bytes()).hexdigest()
    hub.repositories["some/altered"] = Repository.of(published, promised={SHARD: right})
    hub.repositories["some/altered"].files[SHARD] = bytes(content)
    folder = client.folder("some/altered")

    with pytest.raises(CheckpointError) as refused:
        load_projection(folder)

    blob = (folder / SHARD).resolve()
    assert f"{folder / SHARD}: not what the hub has: its bytes hash to" in str(refused.value)
    assert f"Delete {blob} and run the command again" in str(refused.value)

    hub.repositories["some/altered"].files[SHARD] = (published / SHARD).read_bytes()
    blob.unlink()
    load_projection(client.folder("some/altered"))


def test_a_byte_that_changed_on_the_disk_is_found_before_anything_is_loaded(cached: Path):
    flip_byte((cached / SHARD).resolve(), 100_000)

    with pytest.raises(CheckpointError, match=rf"{SHARD}: not what the hub has"):
        load_projection(cached)


def test_a_blob_that_is_gone_is_told_as_a_missing_part(cached: Path):
    (cached / SHARD).resolve().unlink()

    with pytest.raises(CheckpointError, match=rf"{SHARD}: missing, and \d+ of the weights"):
        load_projection(cached)


def test_a_whole_file_is_hashed_once(cached: Path, monkeypatch: pytest.MonkeyPatch):
    check_hashes([cached / SHARD], "some/base")
    monkeypatch.setattr("hashlib.file_digest", None)

    check_hashes([cached / SHARD], "some/base")


def test_a_file_that_changed_since_it_was_whole_is_hashed_again(cached: Path):
    check_hashes([cached / SHARD], "some/base")
    flip_byte((cached / SHARD).resolve(), 100_000)

    with pytest.raises(CheckpointError, match="not what the hub has"):
        check_hashes([cached / SHARD], "some/base")


def test_of_several_processes_on_a_machine_the_first_alone_hashes(cached: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("hashlib.file_digest", None)

    check_hashes([cached / SHARD], "some/base")


def test_a_copy_that_the_hubs_client_put_into_a_folder_is_held_to_its_hashes_too(
    hub: Hub, client: Client, published: Path, tmp_path: Path
):
    hub.repositories["some/copied"] = Repository.of(published)
    folder = client.folder("some/copied", local_dir=str(tmp_path / "copy"))
    check_hashes([folder / SHARD], "copy")
    flip_byte(folder / SHARD, 100_000)

    with pytest.raises(CheckpointError, match=rf"{SHARD}: not what the hub has"):
        load_model(
            checkpoint.find(str(folder)), arithmetic=Arithmetic(torch.float32), device=torch.device("cpu"), parts=()
        )


def test_a_folder_that_somebody_copied_has_no_hash_to_hold_it_to(published: Path):
    assert promised_hash(published / SHARD) is None
