"""Checkpoints come from a hub that may refuse, break off or be out of reach: fetched whole, or a clear message.

The real client talks to a stand-in for the hub on this machine.
"""

import shutil
import time
from pathlib import Path

import pytest
import torch

from captioncrafter.model import checkpoint
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.loading import load_model
from hub_server import COMMIT, Client, Hub, Repository

SHARDS = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]


def on_hub(hub: Hub, name: str, published: Path, **how: object) -> str:
    """Puts the published checkpoint on the hub under a name of its own."""
    hub.repositories[name] = Repository.of(published, **how)
    return name


def without(hub: Hub, name: str, ending: str) -> None:
    """Takes files out of a repository."""
    files = hub.repositories[name].files
    hub.repositories[name].files = {file: content for file, content in files.items() if not file.endswith(ending)}


def test_a_hub_name_is_fetched_whole_from_the_endpoint_that_is_set(hub: Hub, client: Client, published: Path):
    name = on_hub(hub, "some/base", published)

    folder = client.folder(name)

    assert folder.name == COMMIT
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == hub.repositories[name].files
    found = checkpoint.Checkpoint(name, None, folder, on_hub=True)
    load_model(found, arithmetic=Arithmetic(torch.float32), device=torch.device("cpu"), parts=("qformer",))


def test_what_is_in_the_cache_is_not_fetched_again(hub: Hub, client: Client, published: Path):
    name = on_hub(hub, "some/twice", published)

    assert client.folder(name) == client.folder(name)

    assert sorted(hub.fetched(name)) == sorted(hub.repositories[name].files)


def test_one_line_says_that_something_is_fetched_and_a_log_has_no_bars(hub: Hub, client: Client, published: Path):
    name = on_hub(hub, "some/told", published)

    client.folder(name)
    client.folder(name)

    assert client.said(name) == [f"{name}: fetching it from the hub at {hub.address} (HF_ENDPOINT)"]


def test_a_newer_revision_is_fetched_and_said(hub: Hub, client: Client, published: Path):
    name = on_hub(hub, "some/moving", published)
    client.folder(name)
    newer = COMMIT[::-1]
    hub.repositories[name].commit = newer

    assert client.folder(name).name == newer

    assert client.said(name) == [f"{name}: fetching it from the hub at {hub.address} (HF_ENDPOINT)"] * 2


def test_offline_the_cache_is_enough(hub: Hub, client: Client, offline: Client, published: Path):
    name = on_hub(hub, "some/cached", published)
    folder = client.folder(name)
    asked = len(hub.asked)

    assert offline.folder(name) == folder
    assert offline.folder(name, revision=COMMIT) == folder
    assert len(hub.asked) == asked
    assert offline.said(name) == []


def test_without_a_network_the_cache_is_enough(hub: Hub, client: Client, unconnected: Client, published: Path):
    name = on_hub(hub, "some/kept", published)

    assert client.folder(name) == unconnected.folder(name)


def test_offline_what_is_not_in_the_cache_is_refused_with_both_ways_out(home: Path, offline: Client):
    message = offline.error("some/unknown")

    assert message == (
        f"some/unknown: not in the hub cache ({home}/hub), and HF_HUB_OFFLINE is set. Connect to the network and unset "
        "it, or copy the hub cache of a machine that has the model. Or give the folder of a copy as model.base."
    )


def test_without_a_network_the_reason_is_told(unconnected: Client):
    message = unconnected.error("some/unknown")

    assert message.startswith(
        "some/unknown: not in the hub cache, and fetching it from the hub at http://127.0.0.1:9 (HF_ENDPOINT) failed "
        "(ConnectError: "
    )
    assert "Connection refused). Connect to the network and try again: files that are whole already are kept" in message


@pytest.mark.parametrize("only_config", [True, False])
def test_without_a_network_a_pinned_commit_is_told_to_be_out_of_reach_at_once(only_config: bool, unconnected: Client):
    started = time.monotonic()

    message = unconnected.error("some/unknown", revision="1" * 40, only_config=only_config)

    assert "failed (ConnectError: " in message
    assert time.monotonic() - started < 10  # the client itself would ask five times more, over 23 seconds
    assert unconnected.said("Retrying") == []


@pytest.mark.parametrize(
    ("listed", "words"),
    [(True, "only partly in the hub cache"), (False, "its weights are not in the hub cache")],
    ids=["with a list of its files", "as clients before 2.0 leave it"],
)
def test_offline_a_cache_with_the_configuration_alone_is_called_partial(
    listed: bool, words: str, hub: Hub, client: Client, offline: Client, published: Path
):
    name = on_hub(hub, f"some/planned-{listed}".lower(), published)
    folder = client.folder(name, only_config=True)
    if not listed:
        shutil.rmtree(folder.parents[1] / "trees")

    message = offline.error(name)

    assert hub.fetched(name) == ["config.json"]
    assert words in message
    assert "HF_HUB_OFFLINE is set. Connect to the network" in message
    assert offline.said(name) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (("GatedRepo", 403), "some/closed: the repository is gated. Accept its terms on the hub at"),
        (("GatedRepo", 401), "then `hf auth login`."),
        (("RepoNotFound", 404), "has no such repository, or it is private. Check the name, or `hf auth login`."),
        (("Broken", 500), "not in the hub cache, and fetching it from the hub at"),
    ],
)
def test_a_repository_that_the_hub_refuses_is_told_with_what_to_do(
    error: tuple[str, int], words: str, hub: Hub, client: Client, published: Path
):
    name = on_hub(hub, "some/closed", published, error=error)

    assert words in client.error(name)


def test_a_name_that_the_hub_does_not_have_is_told_with_the_mirror(hub: Hub, client: Client):
    message = client.error("some/unknown")

    assert message.startswith(f"some/unknown: the hub at {hub.address} (HF_ENDPOINT) has no such repository")


def test_a_revision_that_the_hub_does_not_have_is_named(hub: Hub, client: Client, published: Path):
    name = on_hub(hub, "some/pinned", published)

    assert "has no revision v9. The newest is called main." in client.error(name, revision="v9")


def test_another_kind_of_model_is_refused_before_its_weights_are_fetched(hub: Hub, client: Client, published: Path):
    name = on_hub(hub, "some/instruct", published)
    hub.repositories[name].files["config.json"] = b'{"model_type": "instructblip"}'

    assert "This is an InstructBLIP, whose Q-Former reads the prompt too" in client.error(name)
    assert hub.fetched(name) == ["config.json"]


def test_a_repository_without_configuration_is_no_checkpoint(hub: Hub, client: Client, published: Path):
    name = on_hub(hub, "some/bare", published)
    without(hub, name, "config.json")

    assert "no config.json on the hub at" in client.error(name)


def test_a_pickle_on_the_hub_is_not_even_fetched(hub: Hub, client: Client, published: Path):
    name = on_hub(hub, "some/pickled", published)
    without(hub, name, ".safetensors")
    without(hub, name, ".index.json")
    hub.repositories[name].files["pytorch_model.bin"] = b"cos\nsystem\n(S'exit 1'\ntR."

    message = client.error(name)

    assert "only as pytorch_model.bin, a pickle file, which can run code when opened; it was not fetched" in message
    assert "give that folder as model.base" in message
    assert "pytorch_model.bin" not in hub.fetched(name)


def test_a_connection_that_breaks_is_taken_up_where_it_was(hub: Hub, client: Client, published: Path):
    large = b"0123456789abcdef" * 750_000  # the client writes pieces of 10 MiB
    name = on_hub(hub, "some/broken", published, cut_short={"large.safetensors": 11 * 2**20})
    hub.repositories[name].files["large.safetensors"] = large

    folder = client.folder(name)

    starts = [start for method, path, start in hub.asked if (method, path) == ("GET", f"{name}/large.safetensors")]
    assert starts == [None, 10 * 2**20]
    assert (folder / "large.safetensors").read_bytes() == large


def test_after_a_kill_whole_files_are_kept_and_the_torn_one_is_fetched_anew(
    hub: Hub, client: Client, offline: Client, home: Path, published: Path
):
    name = on_hub(hub, "some/killed", published, held={SHARDS[1]})
    killed = Client(home, hub.address)
    killed.ask(name)
    snapshot = home / "hub" / "models--some--killed" / "snapshots" / COMMIT
    others = set(hub.repositories[name].files) - {SHARDS[1]}
    while not all((snapshot / file).exists() for file in others) or SHARDS[1] not in hub.fetched(name):
        time.sleep(0.05)
    killed.end()

    refused = offline.error(name)
    hub.repositories[name].held.clear()
    folder = client.folder(name)

    assert "only partly in the hub cache" in refused or f"{SHARDS[1]}: missing" in refused
    assert hub.fetched(name).count(SHARDS[0]) == 1
    assert (folder / SHARDS[1]).read_bytes() == (published / SHARDS[1]).read_bytes()
