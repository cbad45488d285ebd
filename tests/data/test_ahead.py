"""Work that goes on beside the model."""

import os
import threading
from collections.abc import Iterator

import pytest

from captioncrafter.data.ahead import computed_ahead, decoding_threads


def test_results_come_in_the_order_of_the_items_whichever_is_ready_first():
    second_is_done = threading.Event()

    def compute(item: int) -> int:
        if item == 0:
            second_is_done.wait(10)
        if item == 1:
            second_is_done.set()
        return item * 10

    assert list(computed_ahead(compute, range(6), ahead=3)) == [0, 10, 20, 30, 40, 50]


def test_no_items_give_no_results():
    assert list(computed_ahead(str, [])) == []


def test_an_exception_comes_out_where_its_result_would_have():
    def compute(item: int) -> float:
        return 1 / item

    results = computed_ahead(compute, [1, 2, 0, 4])

    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_items_are_taken_only_so_far_ahead():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = computed_ahead(str, items(), ahead=2)
    assert taken == []

    next(results)
    assert taken == [0, 1, 2]

    next(results)
    assert taken == [0, 1, 2, 3]


def test_threads_end_with_the_one_who_stops_listening():
    before = threading.active_count()
    results = computed_ahead(str, range(100))
    next(results)

    results.close()  # pyright: ignore[reportAttributeAccessIssue]

    assert threading.active_count() == before


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (4, 4), (16, 8)])
def test_images_are_decoded_on_every_core_up_to_eight(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)

    assert decoding_threads() == threads


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")

    assert decoding_threads() == 4


def test_what_is_made_ahead_is_made_in_so_many_threads():
    together = threading.Barrier(3, timeout=10)
    names: set[str] = set()

    def compute(item: int) -> int:
        names.add(threading.current_thread().name)
        together.wait()
        return item

    assert list(computed_ahead(compute, range(9), ahead=9, threads=3)) == list(range(9))
    assert len(names) == 3
