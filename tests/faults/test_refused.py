"""Going on with other data, another recipe, another checkpoint or nothing: refused with what differs; branching."""

import shutil
import signal
from pathlib import Path

import pytest

from captioncrafter import runs
from faults.course import Course, send
from tiny import write_tiny_checkpoint, write_tiny_dataset

full = pytest.mark.faults


def stop(own: Course, out: Path) -> None:
    ended = own.start(out, faults=[send(signal.SIGTERM, at="batch", nth=32)]).end()
    assert ended.status == 143, ended.said


def test_other_data_under_the_same_name_are_refused_with_what_differs(own: Course, out: Path):
    stop(own, out)
    shutil.rmtree(own.folder / "data")
    write_tiny_dataset(own.folder / "data", train=11, validation=4)

    ended = own.start(out).end()

    assert ended.status == 2
    assert "data.train.images: 10 in the run, 11 now" in ended.said
    assert "data.train.fingerprint" in ended.said and "--branch" in ended.said


@full
def test_another_checkpoint_under_the_same_name_is_refused_with_what_differs(own: Course, out: Path):
    stop(own, out)
    shutil.rmtree(own.folder / "base")
    write_tiny_checkpoint(own.folder / "base", seed=1)

    ended = own.start(out).end()

    assert ended.status == 2
    assert "checkpoint.weights" in ended.said


@full
def test_another_recipe_is_refused_with_what_differs(own: Course, out: Path):
    stop(own, out)

    ended = own.start(out, "--training.learning-rate", "1e-3").end()

    assert ended.status == 2
    assert "training.learning_rate: 0.01 in the run, 0.001 now" in ended.said


@full
def test_a_branch_starts_a_new_run_from_the_best_weights_of_another(own: Course, out: Path):
    stop(own, out)

    branched = own.start(out.parent / "branch", "--branch", str(out), "--training.learning-rate", "1e-3").end()

    assert branched.status == 0, branched.said
    assert f"the adapter starts as that of {out}" in branched.said
    manifest = runs.Run(out.parent / "branch").manifest()
    assert manifest["branched_from"] == str(out) and manifest["result"]["steps"] == 24
