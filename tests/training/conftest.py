"""A tiny beginning and the run of it that nothing interrupted, made once for all tests of training."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from captioncrafter.model.cut import Cut
from captioncrafter.training.mode import training_mode
from captioncrafter.training.processes import Processes
from captioncrafter.training.step import Stepper
from loops import fit
from tiny import write_tiny_opt_checkpoint
from trainees import ALONE, IMAGES, Beginning, MakeStepper, write_without_dropout


@pytest.fixture(scope="session")
def start(tiny_checkpoint: Path) -> Beginning:
    """What the loop starts from: a tiny flan-T5, cut behind the Q-Former."""
    return Beginning(tiny_checkpoint)


@pytest.fixture(scope="session")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Beginning:
    """The same over a decoder-only language model."""
    return Beginning(write_tiny_opt_checkpoint(tmp_path_factory.mktemp("opt") / "blip2-opt"))


@pytest.fixture(scope="session")
def exact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Beginning]:
    """Without dropout, by what lies behind the cut."""
    folder = tmp_path_factory.mktemp("exact")
    t5 = write_without_dropout(tiny_checkpoint, folder / "t5")
    opt = write_without_dropout(write_tiny_opt_checkpoint(folder / "dropping-opt"), folder / "opt")
    prompts = ("a photo of", "a big photo of the")
    return {
        "efficient": Beginning(t5, Cut.QFORMER, prompts=prompts),
        "fast": Beginning(t5, Cut.ENCODER, prompts=prompts),
        "quality": Beginning(t5, Cut.VISION, prompts=prompts),
        "opt": Beginning(opt, Cut.QFORMER, prompts=prompts),
    }


@pytest.fixture(scope="session")
def uninterrupted(start: Beginning, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of nine steps without a stop."""
    out = tmp_path_factory.mktemp("uninterrupted")
    fit(start, out)
    return out


@pytest.fixture
def make_stepper() -> Iterator[MakeStepper]:
    """Makes steppers of one batch a step, or of several; their feeds are closed afterwards."""
    made = []

    def make(
        start: Beginning,
        *,
        size: int = IMAGES,
        preset: str = "efficient",
        dropout: float = 0.0,
        source=None,
        processes: Processes = ALONE,
        **training: object,
    ) -> Stepper:
        changes = {"images_per_step": IMAGES, "images_per_batch": size, "max_grad_norm": 1e9} | training
        options = start.options(dropout=dropout, preset=preset, training=changes)
        stepper = start.stepper(options, source=source, processes=processes)
        training_mode(stepper.tuned, options.training)
        made.append(stepper)
        return stepper

    yield make
    for stepper in made:
        stepper.feed.close()
