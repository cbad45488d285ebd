"""What every test shares: offline, shapes checked, and tiny BLIP-2 checkpoints in the hub's layout."""

import os
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

# Every function whose signature names axes is checked on every call of every test.
CHECKED = ("model", "features", "training", "generation", "metrics")
install_import_hook([f"captioncrafter.{package}" for package in CHECKED], "beartype.beartype")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
ALLOWED_SKIPS = Path(__file__).parent / "allowed_skips.txt"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--faults` runs the whole fault suite; without it, tests marked `faults` are left out."""
    parser.addoption("--faults", action="store_true", help="run the whole fault suite (tests/faults), and only that")
    parser.addoption("--faults-seed", type=int, default=0, help="seed of the moments at which faults strike")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what a seeded sample of the fault suite does without, unless all of it is asked for."""
    whole = config.getoption("--faults")
    left_out = [item for item in items if item.get_closest_marker("faults") and not whole]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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
def photos(tmp_path: Path) -> Path:
    """A folder of three small pictures: 0.png, 1.png, 2.png."""
    from tiny import picture

    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
    return folder


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """The folder of real Flickr8k photos; the test is skipped where there is none."""
    return _shared("flickr8k")


@pytest.fixture(scope="session")
def published_cases() -> Path:
    """The file of metric values that other projects published; the test is skipped where there is none."""
    return _shared("metrics/published_cases.json")


@pytest.fixture(scope="session")
def published_files() -> Path:
    """The small files of blip2-flan-t5-xl as the hub has them; the test is skipped where there are none."""
    return _shared("hub/blip2-flan-t5-xl")


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs shared/{name} beside the checkout")
    return path


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is synced to disk, in order; Linux tells which file a descriptor is."""
    found: list[Path] = []
    sync = os.fsync

    def note_and_sync(descriptor: int) -> None:
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note_and_sync)
    return found


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """A skip whose reason is not listed is a failure: a test that silently stops running proves nothing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        if reason not in ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines():
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: skipped for a reason that {ALLOWED_SKIPS.name} does not list: {reason}"
    return report
