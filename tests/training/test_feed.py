"""Batches come ready, in order and whole, and what goes wrong in the thread comes out where it matters."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from captioncrafter.errors import DataError
from captioncrafter.training.batches import Schedule
from captioncrafter.training.feed import Batch, Feed
from families import owners_of
from trainees import Beginning

MakeFeed = Callable[..., Feed]


@pytest.fixture(scope="module")
def beginning(tiny_checkpoint: Path) -> Beginning:
    return Beginning(tiny_checkpoint, prompts=("a photo of", "a photo of a big dog"))


@pytest.fixture
def make_feed(beginning: Beginning) -> Iterator[MakeFeed]:
    feeds = []

    def make(source=None, *, images_per_step: int = 4) -> Feed:
        schedule = Schedule(beginning.images.lengths, images_per_step, epochs=2.0, seed=0)
        feed = Feed(beginning.images, schedule, source or beginning.source, beginning.model.config, pinned=False)
        feeds.append(feed)
        return feed

    yield make
    for feed in feeds:
        feed.close()


def same(one: Batch, other: Batch) -> bool:
    pairs = [(one.features, other.features), (one.prompts.words, other.prompts.words)]
    pairs += [(one.prompts.mask, other.prompts.mask)]
    pairs += [(getattr(one.captions, name), getattr(other.captions, name)) for name in vars(one.captions)]
    return one.first == other.first and all(torch.equal(a, b) for a, b in pairs)


def test_batches_made_ahead_are_those_made_at_once(make_feed: MakeFeed):
    ahead = make_feed()

    for step in range(ahead.schedule.steps):
        at_once = make_feed().batches(step, 3)
        found = ahead.batches(step, 3)
        assert len(found) == len(at_once)
        assert all(map(same, found, at_once))


def test_a_step_that_was_not_prepared_is_made_at_once(make_feed: MakeFeed):
    feed = make_feed()
    feed.batches(0, 4)

    assert all(map(same, feed.batches(2, 4), make_feed().batches(2, 4)))
    assert all(map(same, feed.batches(2, 2), make_feed().batches(2, 2)))


def test_images_keep_the_order_of_the_step(beginning: Beginning, make_feed: MakeFeed):
    feed = make_feed()
    chosen = feed.schedule.images_of(0)

    batches = feed.batches(0, 3)

    assert [batch.first for batch in batches] == [0, 3]
    assert torch.equal(torch.cat([batch.features for batch in batches]), beginning.features[chosen])
    for batch, images in zip(batches, (chosen[:3], chosen[3:]), strict=True):
        for row, image in enumerate(images):
            targets = batch.captions.targets[owners_of(batch.captions) == row].tolist()
            assert targets == [token for ids in beginning.captions[image] for token in ids]
            words = beginning.prompts[image].words
            assert batch.prompts.words[row, : len(words)].tolist() == words.tolist()


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_processes_batches_together_are_the_whole_step(make_feed: MakeFeed, world: int, size: int):
    whole = make_feed(images_per_step=6).batches(0, size)

    parts = [make_feed(images_per_step=6).batches(0, size, rank=rank, world=world) for rank in range(world)]

    together = sorted((batch for part in parts for batch in part), key=lambda batch: batch.first)
    assert len(together) == len(whole)
    assert all(map(same, together, whole))


def test_the_source_is_told_the_step(make_feed: MakeFeed):
    def source(images: Sequence[int], *, step: int) -> Tensor:
        return torch.full((len(images), 3, 32), float(step))

    feed = make_feed(source)

    assert [float(feed.batches(step, 4)[0].features.max()) for step in range(3)] == [0, 1, 2]


def test_the_next_step_is_made_while_nobody_asks(beginning: Beginning, make_feed: MakeFeed):
    made = threading.Event()

    def source(images: Sequence[int], *, step: int) -> Tensor:
        if step == 1:
            made.set()
        return beginning.source(images, step=step)

    make_feed(source).batches(0, 4)

    assert made.wait(timeout=10)


def test_behind_the_last_step_nothing_is_made(beginning: Beginning, make_feed: MakeFeed):
    asked = []

    def source(images: Sequence[int], *, step: int) -> Tensor:
        asked.append(step)
        return beginning.source(images, step=step)

    feed = make_feed(source)
    feed.batches(feed.schedule.steps - 1, 4)
    feed.close()

    assert asked == [feed.schedule.steps - 1]


def test_an_error_of_the_source_comes_out_in_the_step_that_needs_it(beginning: Beginning, make_feed: MakeFeed):
    def source(images: Sequence[int], *, step: int) -> Tensor:
        if step == 1:
            raise DataError("features of picture-3.png are damaged")
        return beginning.source(images, step=step)

    feed = make_feed(source)
    feed.batches(0, 4)

    with pytest.raises(DataError, match=r"picture-3\.png"):
        feed.batches(1, 4)


def test_closing_ends_the_thread(make_feed: MakeFeed):
    before = set(threading.enumerate())
    feed = make_feed()
    feed.batches(0, 4)
    during = set(threading.enumerate()) - before

    feed.close()

    assert len(during) == 1
    assert not any(thread.is_alive() for thread in during)


def test_the_thread_that_works_ahead_leaves_the_cores_to_the_step(make_feed: MakeFeed, beginning: Beginning):
    before = torch.get_num_threads()
    seen: list[int] = []

    def source(images: Sequence[int], *, step: int) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            seen.append(torch.get_num_threads())
        return beginning.source(images, step=step)

    feed = make_feed(source)
    feed.batches(0, 2)
    feed.batches(1, 2)

    assert set(seen) == {1}
    assert torch.get_num_threads() == before
