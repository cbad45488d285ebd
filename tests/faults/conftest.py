"""One warm process a worker, one uninterrupted run, and how much of the suite is done: all of it with `--faults`."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.course import RECIPE, Course
from faults.forks import Forks
from tiny import write_tiny_checkpoint, write_tiny_dataset

_IN_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def fault_folder() -> Iterator[Path]:
    """Where runs are: in memory where the system offers that."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def course(fault_folder: Path) -> Iterator[Course]:
    """The run that faults are tried on."""
    forks = Forks(fault_folder)
    base = write_tiny_checkpoint(fault_folder / "base")
    data = write_tiny_dataset(fault_folder / "data", train=10, validation=4)
    recipe = fault_folder / "tiny.toml"
    recipe.write_text(RECIPE.format(base=base, data=data))
    forks.ready()
    yield Course(forks, fault_folder, recipe)
    forks.close()


@pytest.fixture
def out(fault_folder: Path) -> Iterator[Path]:
    """A run folder that is still to be made."""
    own = Path(tempfile.mkdtemp(dir=fault_folder))
    yield own / "run"
    shutil.rmtree(own, ignore_errors=True)


@pytest.fixture
def own(course: Course, out: Path) -> Course:
    """The course over a checkpoint and data of its own, which a test may change."""
    folder = out.parent
    shutil.copytree(course.folder / "base", folder / "base")
    shutil.copytree(course.folder / "data", folder / "data")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(base=folder / "base", data=folder / "data"))
    return Course(course.forks, folder, recipe)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """The test's own random numbers, by its name and `--faults-seed`."""
    return random.Random(f"{request.config.getoption('--faults-seed')} {request.node.name}")
