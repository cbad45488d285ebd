"""A row of the log holds the mean loss and the speed since the row before."""

import pytest

from captioncrafter.training.window import Window


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `time.monotonic` says."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_the_loss_is_the_mean_over_all_tokens_and_not_over_steps():
    window = Window()
    window.add(30.0, 1.0, tokens=10, captions=2)
    window.add(10.0, 1.0, tokens=30, captions=6)

    assert window.take()["loss"] == 1.0


def test_speed_is_captions_by_the_time_of_steps_alone(clock: list[float]):
    window = Window(started=clock[0])
    window.add(1.0, 1.0, tokens=1, captions=12)
    clock[0] += 10
    window.leave_out(7.0)

    assert window.take()["captions_per_s"] == 4.0


def test_every_row_begins_anew(clock: list[float]):
    window = Window(started=clock[0])
    window.add(30.0, 1.0, tokens=10, captions=2)
    clock[0] += 5
    window.take()
    window.add(8.0, 1.0, tokens=4, captions=6)
    clock[0] += 2

    assert window.take() == {"loss": 2.0, "captions_per_s": 3.0}


def test_where_every_step_was_set_aside_there_is_no_loss(clock: list[float]):
    window = Window(started=clock[0])
    clock[0] += 1

    assert window.take() == {"captions_per_s": 0.0}


def test_sums_from_a_checkpoint_go_on_to_the_same_loss_bit_for_bit():
    losses = [0.1, 0.7, 1 / 3, 0.2]
    whole, before = Window(), Window()
    for loss in losses:
        whole.add(loss, 1.0, 3, 1)
    for loss in losses[:2]:
        before.add(loss, 1.0, 3, 1)

    after = Window(**before.to_json())
    for loss in losses[2:]:
        after.add(loss, 1.0, 3, 1)

    assert after.take()["loss"] == whole.take()["loss"]


def test_the_norm_is_of_the_newest_step_and_outlives_row_and_checkpoint():
    window = Window()
    window.add(1.0, 2.0, tokens=1, captions=1)
    window.add(1.0, 3.0, tokens=1, captions=1)
    window.take()

    assert Window(**window.to_json()).norm == 3.0


def test_speed_counts_only_what_this_process_did(clock: list[float]):
    before = Window()
    before.add(1.0, 1.0, tokens=1, captions=1000)

    after = Window(**before.to_json(), started=clock[0])
    after.add(1.0, 1.0, tokens=1, captions=4)
    clock[0] += 2

    assert after.take()["captions_per_s"] == 2.0


def test_a_window_of_no_time_has_a_speed(clock: list[float]):
    assert Window(started=clock[0]).take()["captions_per_s"] == 0.0
