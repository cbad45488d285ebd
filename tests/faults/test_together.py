"""Two processes: as exact as one, together or not at all."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from captioncrafter import runs
from faults.course import Course, send, unclear
from faults.likeness import differences

full = pytest.mark.faults


@pytest.fixture(scope="module")
def pair(course: Course) -> Path:
    """The run of two processes without a fault."""
    out = course.folder / "pair"
    ends = [started.end() for started in course.start_together(out)]
    assert [ended.status for ended in ends] == [0, 0], "\n".join(ended.said for ended in ends)
    return out


@full
def test_a_run_of_two_ended_and_gone_on_with_is_the_same_bit_for_bit(course: Course, out: Path, pair: Path):
    ends = [one.end() for one in course.start_together(out, faults={1: [send(signal.SIGKILL, at="batch", nth=12)]})]
    again = [one.end() for one in course.start_together(out)]

    assert ends[0].status == 1 and ends[1].status == -signal.SIGKILL
    assert unclear(ends[0]) == [] and "another process of this run has ended" in ends[0].said
    assert [one.status for one in again] == [0, 0], "\n".join(one.said for one in again)
    assert differences(out, pair) == []


@pytest.mark.parametrize(("rank", "at", "nth"), [(0, "batch", 12), (0, "save", 6), (1, "validation", 2)])
@full
def test_either_may_be_killed_anywhere(course: Course, out: Path, pair: Path, rank: int, at: str, nth: int):
    ends = [one.end() for one in course.start_together(out, faults={rank: [send(signal.SIGKILL, at=at, nth=nth)]})]
    again = [one.end() for one in course.start_together(out)]

    assert ends[rank].status == -signal.SIGKILL
    assert ends[1 - rank].status == 1 and unclear(ends[1 - rank]) == [], ends[1 - rank].said
    assert [one.status for one in again] == [0, 0], "\n".join(one.said for one in again)
    assert differences(out, pair) == []


@pytest.mark.parametrize("rank", [0, 1])
@full
def test_a_signal_to_one_stops_both_after_the_same_step(course: Course, out: Path, pair: Path, rank: int):
    ends = [one.end() for one in course.start_together(out, faults={rank: [send(signal.SIGTERM, at="batch", nth=9)]})]
    again = [one.end() for one in course.start_together(out)]

    assert [one.status for one in ends] == [143, 143], "\n".join(one.said for one in ends)
    assert [one.status for one in again] == [0, 0], "\n".join(one.said for one in again)
    assert differences(out, pair) == []


@full
def test_a_fault_of_one_ends_both(course: Course, out: Path, pair: Path):
    limit = {"at": "save", "nth": 5, "do": "limit_file_size", "size": 20_000}

    ends = [one.end() for one in course.start_together(out, faults={0: [limit]})]
    again = [one.end() for one in course.start_together(out)]

    assert [one.status for one in ends] == [1, 1], "\n".join(one.said for one in ends)
    assert unclear(ends[0]) == unclear(ends[1]) == []
    assert [one.status for one in again] == [0, 0], "\n".join(one.said for one in again)
    assert differences(out, pair) == []


@full
def test_two_processes_see_the_same_images_in_the_same_order_and_learn_the_same(course: Course, pair: Path):
    """Sums of float32 in another order: losses agree to 1e-4 of themselves, weights to 1e-3 of the largest."""
    one, two = runs.Run(course.whole).log(), runs.Run(pair).log()
    alone = load_file(course.whole / "checkpoints" / "step-000024" / "weights.safetensors")
    together = load_file(pair / "checkpoints" / "step-000024" / "weights.safetensors")

    assert [(row["kind"], row["step"], row["epoch"]) for row in one] == [
        (row["kind"], row["step"], row["epoch"]) for row in two
    ]
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    largest = max(float(tensor.abs().max()) for tensor in alone.values())
    assert all(torch.allclose(together[name], tensor, atol=1e-3 * largest) for name, tensor in alone.items())


@full
def test_a_run_of_two_is_not_gone_on_with_by_one(course: Course, out: Path):
    for one in course.start_together(out, faults={0: [send(signal.SIGTERM, at="batch", nth=9)]}):
        one.end()

    alone = course.start(out).end()

    assert alone.status == 2
    assert "processes: 2 in the run, 1 now" in alone.said


def test_a_world_smaller_than_asked_for_is_refused(course: Course, out: Path):
    ended = course.start(out, environment={"MASTER_ADDR": "127.0.0.1"}).end()

    assert ended.status == 2 and not out.exists()
    assert "several processes were asked for" in ended.said
    assert "torchrun" in ended.said
