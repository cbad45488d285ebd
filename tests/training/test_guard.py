"""A signal is noted, not obeyed, until the run is at a safe point."""

import os
import signal
import threading

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


def test_a_second_signal_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), guard.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


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


def test_stopped_ends_as_shells_expect():
    assert guard.Stopped("stopped", signal.SIGTERM).exit_code == 143
