"""Figures of a step reach the CPU without waiting for what the device was given after it."""

import pytest
import torch
from torch import Tensor

from captioncrafter.training import arriving
from captioncrafter.training.arriving import Arriving


class OnGpu(Tensor):
    """Numbers that say they are on a GPU."""

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return torch.device("cuda")


def on_gpu() -> Tensor:
    return torch.zeros(3).as_subclass(OnGpu)


class Stream:
    """A device that does what it was given only once somebody waits for it, and no further than needed."""

    def __init__(self) -> None:
        self.queued, self.done = [], 0

    def give(self, work) -> None:
        self.queued.append(work)

    def until(self, count: int) -> None:
        while self.done < count:
            self.queued[self.done]()
            self.done += 1


class Event:
    """What torch.cuda.Event is to the stream above."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.behind = stream, len(stream.queued)

    def synchronize(self) -> None:
        self.stream.until(self.behind)


def test_reading_waits_for_the_numbers_and_for_nothing_behind_them(monkeypatch: pytest.MonkeyPatch):
    stream = Stream()

    def sent(numbers: Tensor) -> tuple[Tensor, Event]:
        place = torch.zeros(3)
        stream.give(lambda: place.copy_(torch.tensor([2.5, 1.25, 1.0])))
        return place, Event(stream)

    monkeypatch.setattr(arriving, "_sent", sent)
    on_its_way = Arriving(on_gpu())
    stream.give(lambda: pytest.fail("the step behind was waited for"))

    assert stream.done == 0
    assert on_its_way.read() == [2.5, 1.25, 1.0]
    assert on_its_way.read() == [2.5, 1.25, 1.0]
    assert stream.done == 1


def test_on_a_cpu_the_numbers_are_there():
    assert Arriving(torch.tensor([0.1, float("inf"), 0.0])).read() == [pytest.approx(0.1), float("inf"), 0.0]
