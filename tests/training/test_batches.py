"""The order of the images follows from the seed and the step alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioncrafter.training.batches import Schedule


@given(images=st.integers(1, 60), per_step=st.integers(1, 20), seed=st.integers(0, 2**40))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_every_image_stands_in_each_epoch_once(images: int, per_step: int, seed: int):
    schedule = Schedule(images, per_step, epochs=2.0, seed=seed)

    for epoch in range(2):
        steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
        assert sorted(image for step in steps for image in schedule.images_of(step)) == list(range(images))


def test_the_last_step_of_an_epoch_is_smaller_when_images_do_not_divide():
    schedule = Schedule(10, 4, epochs=1.0, seed=0)

    assert [len(schedule.images_of(step)) for step in range(schedule.steps)] == [4, 4, 2]


def test_the_same_seed_gives_the_same_order():
    one, same = Schedule(10, 4, epochs=2.0, seed=3), Schedule(10, 4, epochs=2.0, seed=3)

    assert [one.images_of(step) for step in range(6)] == [same.images_of(step) for step in range(6)]


def test_another_seed_and_another_epoch_give_another_order():
    schedule, other = Schedule(10, 10, epochs=2.0, seed=3), Schedule(10, 10, epochs=2.0, seed=4)

    orders = [schedule.images_of(0), schedule.images_of(1), other.images_of(0)]

    assert len({tuple(order) for order in orders}) == 3


def test_a_step_can_be_asked_for_without_those_before_it():
    steps = [Schedule(10, 4, epochs=3.0, seed=0).images_of(step) for step in (7, 0, 7)]

    assert steps[0] == steps[2]


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (2.0, 6), (0.5, 2), (0.01, 1), (1.4, 5)])
def test_epochs_in_parts_round_up_to_whole_steps(epochs: float, steps: int):
    assert Schedule(10, 4, epochs=epochs, seed=0).steps == steps


def test_epochs_are_counted_in_passes_over_the_images():
    assert Schedule(10, 4, epochs=2.0, seed=0).epoch_after(3) == 1.0
