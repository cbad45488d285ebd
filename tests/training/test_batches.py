"""The order of the images follows from the seed and the step alone."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioncrafter.training.batches import Schedule, TrainingImages

EQUAL = (7,) * 10


def random_lengths(count: int) -> tuple[int, ...]:
    draw = random.Random(count)
    return tuple(draw.randint(10, 120) for _ in range(count))


def padding(steps: list[list[int]], lengths: tuple[int, ...]) -> int:
    return sum(max(lengths[image] for image in step) - lengths[image] for step in steps for image in step)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    per_step=st.integers(1, 20),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_every_image_stands_in_each_epoch_once(lengths: list[int], per_step: int, seed: int):
    schedule = Schedule(tuple(lengths), per_step, epochs=2.0, seed=seed)

    for epoch in range(2):
        steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
        found = [schedule.images_of(step) for step in steps]
        assert sorted(image for step in found for image in step) == list(range(len(lengths)))
        assert all(len(step) == per_step for step in found[:-1])


def test_every_image_stands_in_each_epoch_once_across_windows():
    schedule = Schedule(random_lengths(301), 32, epochs=1.0, seed=5)

    found = [image for step in range(schedule.steps) for image in schedule.images_of(step)]

    assert sorted(found) == list(range(301))


def test_the_last_step_of_an_epoch_is_smaller_when_images_do_not_divide():
    schedule = Schedule(random_lengths(10), 4, epochs=2.0, seed=0)

    assert [len(schedule.images_of(step)) for step in range(schedule.steps)] == [4, 4, 2, 4, 4, 2]


def test_images_of_like_length_share_a_step():
    lengths = random_lengths(512)
    schedule = Schedule(lengths, 8, epochs=1.0, seed=1)
    anyhow = random.Random(0).sample(range(512), 512)

    bucketed = padding([schedule.images_of(step) for step in range(schedule.steps)], lengths)

    assert bucketed < 0.3 * padding([anyhow[at : at + 8] for at in range(0, 512, 8)], lengths)


def test_within_a_step_the_longest_image_comes_first():
    lengths = random_lengths(40)

    for step in range(5):
        found = [lengths[image] for image in Schedule(lengths, 8, epochs=1.0, seed=1).images_of(step)]
        assert found == sorted(found, reverse=True)


def test_steps_are_not_in_order_of_length():
    lengths = random_lengths(128)
    schedule = Schedule(lengths, 8, epochs=1.0, seed=1)

    longest = [lengths[schedule.images_of(step)[0]] for step in range(schedule.steps)]

    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_images_that_once_shared_a_step_part_in_the_next_epoch():
    schedule = Schedule(random_lengths(512), 8, epochs=2.0, seed=1)

    first, second = ({frozenset(schedule.images_of(e * 64 + step)) for step in range(64)} for e in range(2))

    assert not first & second


def test_the_same_seed_gives_the_same_order():
    one, same = (Schedule(EQUAL, 4, epochs=2.0, seed=3) for _ in range(2))

    assert [one.images_of(step) for step in range(6)] == [same.images_of(step) for step in range(6)]


def test_another_seed_and_another_epoch_give_another_order():
    schedule, other = Schedule(EQUAL, 10, epochs=2.0, seed=3), Schedule(EQUAL, 10, epochs=2.0, seed=4)

    orders = [schedule.images_of(0), schedule.images_of(1), other.images_of(0)]

    assert len({tuple(order) for order in orders}) == 3


def test_a_step_can_be_asked_for_without_those_before_it():
    lengths = random_lengths(100)
    in_order = Schedule(lengths, 8, epochs=4.0, seed=0)
    order = [in_order.images_of(step) for step in range(in_order.steps)]

    for step in (51, 3, 26, 0, 51):
        assert Schedule(lengths, 8, epochs=4.0, seed=0).images_of(step) == order[step]


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (2.0, 6), (0.5, 2), (0.01, 1), (1.4, 5)])
def test_epochs_in_parts_round_up_to_whole_steps(epochs: float, steps: int):
    assert Schedule(EQUAL, 4, epochs=epochs, seed=0).steps == steps


def test_epochs_are_counted_in_passes_over_the_images():
    assert Schedule(EQUAL, 4, epochs=2.0, seed=0).epoch_after(3) == 1.0


def test_the_length_of_an_image_is_that_of_all_its_captions():
    images = TrainingImages(["one", "two"], [[[5, 1], [6, 7, 1]], [[8, 1]]], [])

    assert (len(images), images.lengths) == (2, (5, 2))
