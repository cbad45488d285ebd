"""Every planted fault, once more with its guard removed: then it must show. What is never red proves nothing."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from faults.course import Course, cache_of, send
from faults.harm import HARMS, poison
from tiny import write_tiny_dataset

pytestmark = pytest.mark.faults

STOP = send(signal.SIGTERM, at="batch", nth=32)
KILL = send(signal.SIGKILL, at="batch", nth=38)
"""After the row of step 22, behind the checkpoint of step 20."""


def damage(pattern: str):
    """Flips a byte in the files of a run."""

    def harm(run: Path) -> None:
        for file in run.parent.glob(pattern):
            HARMS["middle_byte"](file)

    return harm


@pytest.mark.parametrize(
    ("guard", "fault", "harm"),
    [
        ("checkpoints are held against their hashes", STOP, "run/checkpoints/step-000019/weights.safetensors"),
        ("checkpoints are held against their hashes", STOP, "run/checkpoints/step-000019/optimizer.safetensors"),
        ("features are held against their hashes", STOP, "run-cache/features/*/*.safetensors"),
        ("the optimizer's state is restored", KILL, None),
        ("sums that are not yet logged are in the checkpoint", STOP, None),
        ("rows of steps that are repeated are taken out of the log", KILL, None),
        ("dropout is drawn from the step", KILL, None),
        ("signals are listened to", STOP, None),
        ("files are written beside and renamed", send(signal.SIGKILL, at="save", nth=6), None),
    ],
)
def test_without_its_guard_the_fault_shows(
    course: Course, out: Path, guard: str, fault: dict[str, int | str], harm: str | None
):
    trial = course.trial(out, faults=[fault], harm=damage(harm) if harm else None, without=[guard])

    stopped_right = trial.first.status != 143 or "stopped after step" in trial.first.said
    assert trial.complaints() or "passed over" in trial.second.said or not stopped_right, trial.second.said


def test_without_its_guard_a_step_that_is_not_finite_ruins_the_weights(course: Course, out: Path):
    course.start(out, faults=[send(signal.SIGTERM, at="preflight", nth=1)]).end()
    poison(cache_of(out), image=9)

    course.start(out, "--on-nonfinite", "skip", without=["weights stay as they are where a step is not finite"]).end()

    kept = load_file(max((out / "checkpoints").glob("step-*")) / "weights.safetensors")
    assert not all(np.isfinite(tensor).all() for tensor in kept.values())


def test_without_its_guard_a_run_goes_on_with_other_data(own: Course, out: Path):
    first = own.start(out, faults=[STOP]).end()
    shutil.rmtree(own.folder / "data")
    write_tiny_dataset(own.folder / "data", train=11, validation=4)

    second = own.start(out, without=["what a run was started with is compared"]).end()

    assert (first.status, second.status) == (143, 0)


def test_without_its_guard_a_process_alone_trains_where_two_were_asked_for(course: Course, out: Path):
    ended = course.start(out, environment={"MASTER_ADDR": "127.0.0.1"}, without=["a smaller world is refused"]).end()

    assert ended.status == 0
