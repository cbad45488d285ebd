"""One stand-in hub for all tests here, and clients that share a hub cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_layouts import write_published
from hub_server import Client, Hub, clients


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    with Hub().running() as running:
        yield running


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint in two shards, in the hub's layout."""
    return write_published(tmp_path_factory.mktemp("published") / "checkpoint")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that HF_HOME names."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def together(hub: Hub, home: Path) -> Iterator[list[Client]]:
    settings = [{}, {"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}]
    with clients(home, hub.address, settings) as started:
        yield started


@pytest.fixture(scope="session")
def client(together: list[Client]) -> Client:
    """A client that reaches the hub."""
    return together[0]


@pytest.fixture(scope="session")
def offline(together: list[Client]) -> Client:
    """A client under HF_HUB_OFFLINE, with the same cache."""
    return together[1]


@pytest.fixture(scope="session")
def unconnected(together: list[Client]) -> Client:
    """A client whose network leads nowhere, with the same cache."""
    return together[2]
