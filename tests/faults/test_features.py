"""Features that turn out to be no numbers, or are damaged or deleted while a run reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from captioncrafter import runs
from faults.course import STEPS, Course, Trial, cache_of
from faults.harm import poison
from faults.likeness import differences

BATCH = 22
"""In step 14, past the validation after step 12."""

full = pytest.mark.faults


def parts(out: Path) -> str:
    """The parts of the run's feature store, as a pattern."""
    return str(cache_of(out) / "features" / "*" / "*.safetensors")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"do": "delete"}, marks=full),
        pytest.param({"do": "truncate", "size": 0}, marks=full),
        {"do": "truncate", "size": 1000},
        pytest.param({"do": "flip"}, marks=full),
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_features_damaged_under_way_end_the_run_by_name_and_are_computed_anew(
    course: Course, out: Path, fault: dict[str, str | int]
):
    trial = course.trial(out, faults=[{"at": "batch", "nth": BATCH, "paths": [parts(out)], **fault}])

    assert trial.first.status == 2, trial.first.said
    assert "the features of image" in trial.first.said and "--resume" in trial.first.said
    assert trial.continued() == []


def poisoned(course: Course, out: Path, *words: str) -> Trial:
    """A run over a store in which the features of the last training image are NaN; then the same command again."""
    extracted = course.start(out, faults=[{"at": "preflight", "nth": 1, "do": "send", "number": 15}]).end()
    assert extracted.status == 143, extracted.said
    poison(cache_of(out), image=9)
    first = course.start(out, *words).end()
    return course.gone_on(out, first, *words)


def test_an_image_that_is_not_a_number_stops_the_run_by_step_and_name(course: Course, out: Path):
    trial = poisoned(course, out)

    assert trial.first.status == 1, trial.first.said
    assert "the loss is nan" in trial.first.said and "picture-9.png" in trial.first.said
    assert "No step was done before it. --resume --on-nonfinite skip goes on" in trial.first.said
    assert trial.second.status == 1 and trial.complaints() == [], "the same fault again, not a way around it"
    for file in out.rglob("*.safetensors"):
        assert all(np.isfinite(tensor).all() for tensor in load_file(file).values()), file


@full
def test_steps_that_are_not_finite_are_set_aside_and_counted_when_asked(course: Course, out: Path):
    trial = poisoned(course, out, "--on-nonfinite", "skip")

    assert trial.first.status == 3, trial.first.said
    assert trial.first.said.count("Set aside") == 8
    newest = json.loads((out / "checkpoints" / f"step-{STEPS:06d}" / "state.json").read_text())
    assert newest["progress"]["skipped"] == 8
    assert runs.Run(out).manifest()["result"]["steps"] == STEPS
    for file in out.rglob("*.safetensors"):
        assert all(np.isfinite(tensor).all() for tensor in load_file(file).values()), file


@full
def test_a_run_over_features_of_another_run_is_the_same(course: Course, out: Path):
    ended = course.start(out, environment={"CAPTIONCRAFTER_CACHE": str(cache_of(course.whole))}).end()

    assert ended.status == 0 and "0 computed" in ended.said
    assert differences(out, course.whole) == []
