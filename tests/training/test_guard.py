"""A signal is noted, not obeyed, until the run is at a safe point."""

import os
import signal
import threading
import time

import pytest

from captioncrafter.training import guard


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted(number: signal.Signals):
    with guard.listening() as request:
        os.kill(os.getpid(), number)

    assert request.signal_number == number


def test_without_a_signal_nothing_is_noted():
    with guard.listening() as request:
        pass

    assert request.signal_number is None


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_sigint_interrupts_at_once(first: signal.Signals):
    with pytest.raises(KeyboardInterrupt), guard.listening():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_sigterm_ends_the_process_at_once_with_143(first: signal.Signals):
    with pytest.raises(SystemExit) as ended, guard.listening():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGTERM)

    assert ended.value.code == 143


def test_the_handlers_of_before_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    with guard.listening():
        pass

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_than_the_main_one_listens_to_nothing_and_works():
    noted: list[int | None] = []

    def work() -> None:
        with guard.listening() as request:
            noted.append(request.signal_number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert noted == [None]


def test_used_up_time_asks_to_stop(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    with guard.listening(stop_after_s=20.0) as request:
        before = request.code
        monkeypatch.setattr(time, "monotonic", lambda: 120.0)

        assert (before, request.code) == (guard.GO_ON, guard.OUT_OF_TIME)


def test_without_a_time_budget_only_a_signal_asks_to_stop():
    with guard.listening() as request:
        assert request.code == guard.GO_ON
        os.kill(os.getpid(), signal.SIGTERM)

        assert request.code == signal.SIGTERM


def test_a_signal_counts_for_more_than_used_up_time():
    with guard.listening(stop_after_s=0.0) as request:
        os.kill(os.getpid(), signal.SIGINT)

        assert request.code == signal.SIGINT


def test_of_several_processes_codes_the_greatest_is_a_signals():
    assert guard.GO_ON < guard.OUT_OF_TIME < min(signal.SIGINT, signal.SIGTERM)


def test_used_up_time_is_not_a_second_signal():
    with guard.listening(stop_after_s=0.0) as request:
        os.kill(os.getpid(), signal.SIGTERM)

    assert request.signal_number == signal.SIGTERM


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_ends_as_shells_expect(number: signal.Signals, status: int):
    assert guard.Stopped("stopped", number).exit_code == status


def test_stopped_for_want_of_time_is_no_failure():
    assert guard.Stopped("stopped", guard.OUT_OF_TIME).exit_code == 0


@pytest.mark.parametrize(
    ("code", "said"), [(guard.OUT_OF_TIME, "its time is used up"), (signal.SIGTERM, "SIGTERM came")]
)
def test_why_it_stopped_is_said(code: int, said: str):
    assert guard.reason(code) == said
