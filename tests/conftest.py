"""What every test shares: offline, shapes checked, one thread, and tiny BLIP-2 checkpoints in the hub's layout."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

# Every function whose signature names axes is checked on every call of every test.
install_import_hook(["captioncrafter.model", "captioncrafter.features", "captioncrafter.training"], "beartype.beartype")

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP-2 of the published layout with random weights: three queries, width 32, an untied head."""
    from tiny import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "blip2-tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of one test are never read by another."""
    monkeypatch.setenv("CAPTIONCRAFTER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def flickr8k() -> Path:
    """The folder of real Flickr8k photos; the test is skipped where there is none."""
    folder = SHARED / "flickr8k"
    if not folder.is_dir():
        pytest.skip("needs shared/flickr8k beside the checkout")
    return folder


@pytest.fixture
def red_and_blue() -> Callable[[int], bytes]:
    """PNG bytes of picture number n: another colour for each n."""
    from tiny import picture

    return picture
