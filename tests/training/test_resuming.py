"""The loop goes on after any stop as if there had been none."""

import os
import signal
from pathlib import Path

import pytest

from captioncrafter.model.stock import Tuned
from captioncrafter.training.guard import Stopped
from loops import (
    Killed,
    assert_same_end,
    at_batch,
    checkpoint_of,
    fit,
    kept,
    kill,
    progress_after,
    send,
    weights_after,
)
from tiny import flip_byte
from trainees import Beginning, equal, refuse_more_than


@pytest.mark.parametrize("batch", [0, 7, 10])
def test_a_run_stopped_in_a_step_goes_on_as_if_it_had_not_been(
    start: Beginning, uninterrupted: Path, tmp_path: Path, batch: int
):
    with pytest.raises(Stopped, match=f"stopped after step {batch // 2 + 1} of 9") as stopped:
        fit(start, tmp_path, before=at_batch(batch, send(signal.SIGTERM)))
    assert stopped.value.exit_code == 143

    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_a_stop_during_the_last_validation_lets_the_run_end(start: Beginning, uninterrupted: Path, tmp_path: Path):
    result = fit(start, tmp_path, validating=lambda number, tuned: number == 3 and os.kill(os.getpid(), signal.SIGTERM))

    assert result.steps == 9
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.parametrize("at_validation", [0, 1])
def test_a_run_stopped_in_validation_goes_on_as_if_it_had_not_been(
    start: Beginning, uninterrupted: Path, tmp_path: Path, at_validation: int
):
    def stop(number: int, tuned: Tuned) -> None:
        if number == at_validation:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        fit(start, tmp_path, validating=stop)
    result = fit(start, tmp_path)

    assert (result.best_step, result.best_cider) == (6, 0.5)
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.parametrize(("batch", "last"), [(2, None), (5, 2), (11, 4), (17, 8)])
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    start: Beginning, uninterrupted: Path, tmp_path: Path, batch: int, last: int | None
):
    with pytest.raises(Killed):
        fit(start, tmp_path, before=at_batch(batch, kill))
    found = [int(path.name.removeprefix("step-")) for path in tmp_path.glob("checkpoints/step-*")]
    assert max(found, default=None) == last

    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.parametrize("at_validation", [1, 3])
def test_a_run_killed_in_validation_goes_on_as_if_it_had_not_been(
    start: Beginning, uninterrupted: Path, tmp_path: Path, at_validation: int
):
    with pytest.raises(Killed):
        fit(start, tmp_path, validating=lambda number, tuned: number == at_validation and kill())

    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_a_run_stopped_after_every_step_goes_on_as_if_it_had_not_been(
    start: Beginning, uninterrupted: Path, tmp_path: Path
):
    for step in range(1, 9):
        with pytest.raises(Stopped, match=f"stopped after step {step} of 9"):
            fit(start, tmp_path, stop_after_s=0.0)

    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_a_run_out_of_time_is_no_failure_and_says_how_to_go_on(start: Beginning, tmp_path: Path):
    with pytest.raises(Stopped, match="--resume") as stopped:
        fit(start, tmp_path, stop_after_s=0.0)

    assert stopped.value.exit_code == 0
    assert str(tmp_path) in str(stopped.value)


def test_a_run_with_time_enough_is_not_stopped(start: Beginning, tmp_path: Path):
    assert fit(start, tmp_path, stop_after_s=600.0).steps == 9


@pytest.mark.parametrize("where", ["step", "validation"])
def test_a_second_signal_ends_the_run_at_once_and_its_last_checkpoint_is_good(
    start: Beginning, uninterrupted: Path, tmp_path: Path, where: str
):
    def insist(*anything: object) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        if where == "step":
            fit(start, tmp_path, before=at_batch(7, insist))
        else:
            fit(start, tmp_path, validating=lambda number, tuned: number == 2 and insist())
    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    start: Beginning, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(Killed):
        fit(start, tmp_path, before=at_batch(13, kill))
    flip_byte(checkpoint_of(tmp_path, 6) / "optimizer.safetensors", 700)

    fit(start, tmp_path)

    assert "optimizer.safetensors is not as it was written; passed over" in capsys.readouterr().err
    assert_same_end(tmp_path, uninterrupted)


def test_a_run_whose_best_checkpoint_is_damaged_loses_no_step(
    start: Beginning, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(Killed):
        fit(start, tmp_path, before=at_batch(17, kill))
    flip_byte(checkpoint_of(tmp_path, 6) / "weights.safetensors", 700)
    flip_byte(tmp_path / "adapter" / "weights.safetensors", 700)

    fit(start, tmp_path)

    assert "going on after step 8 of 9" in capsys.readouterr().err
    assert_same_end(tmp_path, uninterrupted)
    assert equal(weights_after(tmp_path, 6), weights_after(uninterrupted, 6))


def test_the_best_adapter_is_written_again_where_a_kill_came_before_it(
    start: Beginning, uninterrupted: Path, tmp_path: Path
):
    with pytest.raises(Killed):
        fit(start, tmp_path, before=at_batch(13, kill))
    (tmp_path / "adapter" / "weights.safetensors").unlink()

    with pytest.raises(Stopped):
        fit(start, tmp_path, stop_after_s=0.0)

    assert equal(kept(tmp_path), weights_after(uninterrupted, 6))


def test_a_finished_run_trains_no_step_more(start: Beginning, tmp_path: Path):
    first = fit(start, tmp_path)

    again = fit(start, tmp_path, ciders=[0.9], before=at_batch(0, kill), validating=kill)

    assert again == first


def test_early_stopping_is_remembered_across_a_stop(start: Beginning, tmp_path: Path):
    with pytest.raises(Killed):
        fit(start, tmp_path, ciders=[0.0, 0.5, 0.4], epochs=10.0, before=at_batch(14, kill))

    result = fit(start, tmp_path, ciders=[0.0], validation={"patience": 2}, epochs=10.0)

    assert (result.best_step, result.steps, result.stopped_early) == (3, 9, True)


def test_batches_halved_for_lack_of_memory_stay_so_over_a_stop(
    start: Beginning, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked: list[list[int]] = []

    def tight(tuned: Tuned) -> None:
        asked.append(refuse_more_than(tuned, 1))

    fit(start, tmp_path / "whole", images_per_batch=2, before=tight)
    with pytest.raises(Stopped):
        fit(start, tmp_path / "stopped", images_per_batch=2, before=tight, stop_after_s=0.0)
    fit(start, tmp_path / "stopped", images_per_batch=2, before=tight)

    assert asked == [[2, *[1] * 18], [2, 1, 1], [1] * 16]
    assert capsys.readouterr().err.count("out of memory") == 2
    assert progress_after(tmp_path / "stopped", 9)["halvings"] == 1
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")
