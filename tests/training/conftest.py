"""A tiny beginning and the run of it that nothing interrupted, made once for all tests of training."""

from pathlib import Path

import pytest

from loops import fit
from trainees import Beginning


@pytest.fixture(scope="session")
def start(tiny_checkpoint: Path) -> Beginning:
    """What the loop starts from: a tiny flan-T5, cut behind the Q-Former."""
    return Beginning(tiny_checkpoint)


@pytest.fixture(scope="session")
def uninterrupted(start: Beginning, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of nine steps without a stop."""
    out = tmp_path_factory.mktemp("uninterrupted")
    fit(start, out)
    return out
