"""An export goes to the hub by the real client, whole; every refusal says what to do, and loses nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import Client, Hub, Repository, clients
from hub_uploads import READER, TOKEN

NO_XET = {"HF_HUB_DISABLE_XET": "1"}


@pytest.fixture(scope="module")
def writers(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Client]]:
    """Clients that may write, only read, are unknown, are offline, and reach nobody."""
    settings = [
        NO_XET | {"HF_TOKEN": TOKEN},
        NO_XET | {"HF_TOKEN": READER},
        NO_XET | {"HF_TOKEN": "hf_unknown"},
        NO_XET | {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"},
        NO_XET | {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://127.0.0.1:9"},
    ]
    with clients(tmp_path_factory.mktemp("writers"), hub.address, settings) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like an exported adapter."""
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "README.md").write_text("---\nlibrary_name: peft\n---\n\n# An adapter\n")
    (exported / "adapter_config.json").write_text("{}")
    (exported / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
    return exported


def publish(client: Client, name: str, folder: Path, *, private: bool = True) -> dict[str, str]:
    client.ask(name, publish=str(folder), private=private)
    return client.answer()


def test_a_new_repository_holds_every_file_and_is_private(hub: Hub, writers: list[Client], folder: Path):
    answer = publish(writers[0], "someone/new", folder)

    assert answer == {"url": f"{hub.address}/someone/new"}
    there = hub.repositories["someone/new"]
    assert there.files == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert there.private


def test_one_line_says_that_something_is_uploaded_and_a_log_has_no_bars(hub: Hub, writers: list[Client], folder: Path):
    publish(writers[0], "someone/told", folder)

    assert writers[0].said("someone/told") == [
        f"someone/told: uploading {folder} to the hub at {hub.address} (HF_ENDPOINT)"
    ]
    assert writers[0].said("adapter_model") == []


def test_a_new_repository_is_public_where_that_is_asked_for(hub: Hub, writers: list[Client], folder: Path):
    publish(writers[0], "someone/seen", folder, private=False)

    assert not hub.repositories["someone/seen"].private


def test_publishing_again_replaces_what_changed(hub: Hub, writers: list[Client], folder: Path):
    publish(writers[0], "someone/again", folder)
    (folder / "adapter_model.safetensors").write_bytes(b"others" * 1000)

    assert "url" in publish(writers[0], "someone/again", folder)

    assert hub.repositories["someone/again"].files["adapter_model.safetensors"] == b"others" * 1000


def test_weights_of_another_model_are_never_left_beside_ours(hub: Hub, writers: list[Client], folder: Path):
    before = {"model.safetensors": b"of another", "config.json": b"{}", ".gitattributes": b""}
    hub.repositories["someone/taken"] = Repository(dict(before))

    message = publish(writers[0], "someone/taken", folder)["error"]

    assert "the repository holds another model: config.json, model.safetensors, which this export does not" in message
    assert f"{folder} is whole all the same" in message
    assert hub.repositories["someone/taken"].files == before


def test_a_token_that_may_not_write_is_told_so(hub: Hub, writers: list[Client], folder: Path):
    message = publish(writers[1], "someone/read-only", folder)["error"]

    assert message.startswith(
        f"someone/read-only: the hub at {hub.address} (HF_ENDPOINT) does not let this token write"
    )
    assert f"{folder} is whole all the same: `hf upload someone/read-only {folder}` tries again." in message
    assert "someone/read-only" not in hub.repositories


def test_an_unknown_token_is_told_so_before_any_work(writers: list[Client], folder: Path):
    message = publish(writers[2], "someone/unknown", folder)["error"]

    assert "does not know this token. `hf auth login` keeps another. Nothing was written." in message


def test_offline_is_told_so(writers: list[Client], folder: Path):
    message = publish(writers[3], "someone/offline", folder)["error"]

    assert message == "--push needs the network, and HF_HUB_OFFLINE is set. Unset it, or leave --push out."


def test_no_network_is_told_with_where_it_was_looked_for(writers: list[Client], folder: Path):
    message = publish(writers[4], "someone/nowhere", folder)["error"]

    assert message.startswith("someone/nowhere: the hub at http://127.0.0.1:9 (HF_ENDPOINT) did not take it (Connect")
    assert message.endswith("Nothing was written.")


def test_no_token_at_all_is_told_with_how_to_get_one(client: Client, folder: Path):
    message = publish(client, "someone/tokenless", folder)["error"]

    assert "no token for the hub at" in message
    assert "`hf auth login` keeps one that may write" in message


@pytest.mark.parametrize("name", ["adapter", "a/b/c", "someone/-", "https://huggingface.co/someone/mine"])
def test_what_is_no_name_of_a_repository_is_refused(name: str, client: Client, folder: Path):
    assert publish(client, name, folder)["error"].startswith(f"--push {name}: ")


def test_the_settings_of_a_merged_model_on_the_hub_are_fetched_alone(hub: Hub, client: Client):
    hub.repositories["someone/merged"] = Repository({"captioning.json": b"{}", "model.safetensors": b"large"})
    hub.repositories["someone/plain"] = Repository({"config.json": b"{}"})

    client.ask("someone/merged", file="captioning.json")
    assert Path(client.answer()["folder"]).read_text() == "{}"
    client.ask("someone/plain", file="captioning.json")
    assert client.answer()["folder"] == "None"
    client.ask("someone/nothing", file="captioning.json")
    assert client.answer()["folder"] == "None"

    assert hub.fetched("someone/merged") == ["captioning.json"]
