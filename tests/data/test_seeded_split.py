"""Splits drawn from a seed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from captioncrafter.data.example import Example
from captioncrafter.data.inspection import Inspected
from captioncrafter.data.seeded_split import draw_splits


def image(name: str, content: str | None = None) -> Inspected:
    return Inspected(Example(name, Path(name), ("a dog", "a cat")), content or name, size=1, more_frames=False)


def names(splits: dict[str, list[Inspected]]) -> dict[str, list[str]]:
    return {split: [one.example.image_id for one in images] for split, images in splits.items()}


IMAGES = [image(f"{number:03}.jpg") for number in range(80)]


def test_every_image_is_in_exactly_one_split_in_its_order():
    drawn = names(draw_splits(IMAGES, 0))

    assert sorted(name for split in drawn.values() for name in split) == [one.example.image_id for one in IMAGES]
    assert all(split == sorted(split) for split in drawn.values())


def test_an_eighth_each_is_held_out():
    assert {split: len(images) for split, images in draw_splits(IMAGES, 0).items()} == {
        "train": 60,
        "validation": 10,
        "test": 10,
    }


def test_a_seed_draws_the_same_splits_and_another_seed_draws_others():
    assert names(draw_splits(IMAGES, 3)) == names(draw_splits(IMAGES, 3)) != names(draw_splits(IMAGES, 4))


def test_neither_order_nor_names_decide():
    renamed = [image(f"photo-{one.content}", one.content) for one in reversed(IMAGES)]

    def contents(images: Sequence[Inspected]) -> set[str]:
        return {one.content for one in images}

    for split, images in draw_splits(IMAGES, 0).items():
        assert contents(draw_splits(renamed, 0)[split]) == contents(images)


def test_one_image_more_moves_few_others():
    before = {name: split for split, found in names(draw_splits(IMAGES, 0)).items() for name in found}
    after = {name: s for s, found in names(draw_splits([*IMAGES, image("new.jpg")], 0)).items() for name in found}

    assert sum(after[name] != split for name, split in before.items()) <= 2


def test_exact_copies_share_a_split():
    copies = [image(f"copy-{one.example.image_id}", one.content) for one in IMAGES]

    drawn = names(draw_splits([*IMAGES, *copies], 0))

    for split in drawn.values():
        assert {f"copy-{name}" for name in split if not name.startswith("copy")} <= set(split)


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (12, 2), (16, 2)])
def test_few_images_leave_some_to_train_on(count: int, held_out: int):
    drawn = draw_splits(IMAGES[:count], 0)

    assert (len(drawn["train"]), len(drawn["validation"]), len(drawn["test"])) == (
        count - 2 * held_out,
        held_out,
        held_out,
    )
