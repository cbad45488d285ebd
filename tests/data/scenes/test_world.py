from collections import Counter

import pytest

from captioncrafter.data.scenes.world import (
    COLOURS,
    HELD_OUT_COLOURS,
    HELD_OUT_RELATIONS,
    RELATIONS,
    SHAPES,
    Scene,
    Split,
    draw_scene,
)


def scenes(split: Split, *, seed: int = 7, count: int = 3000) -> list[Scene]:
    return [draw_scene(seed, split, index) for index in range(count)]


def painted_shapes(scene: Scene) -> set[tuple[str, str]]:
    return {(thing.shape, thing.colour) for thing in scene.things}


def related_shapes(scene: Scene) -> set[tuple[str, str, str]]:
    if scene.relation is None:
        return set()
    first, second = scene.things
    return {(first.shape, scene.relation, second.shape)}


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_training_scene_holds_a_held_out_combination(seed: int):
    for scene in scenes("train", seed=seed):
        assert not painted_shapes(scene) & HELD_OUT_COLOURS
        assert not related_shapes(scene) & HELD_OUT_RELATIONS


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_scene_to_be_scored_holds_a_held_out_combination(split: Split):
    for scene in scenes(split):
        assert painted_shapes(scene) & HELD_OUT_COLOURS or related_shapes(scene) & HELD_OUT_RELATIONS


def test_every_held_out_combination_is_asked_for():
    found = scenes("test")

    assert set().union(*map(painted_shapes, found)) >= HELD_OUT_COLOURS
    assert set().union(*map(related_shapes, found)) >= HELD_OUT_RELATIONS


def test_training_shows_every_combination_that_is_not_held_out():
    found = scenes("train", count=6000)
    every_relation = {(one, relation, other) for one in SHAPES for relation in RELATIONS for other in SHAPES}

    assert set().union(*map(painted_shapes, found)) == {(s, c) for s in SHAPES for c in COLOURS} - HELD_OUT_COLOURS
    assert set().union(*map(related_shapes, found)) == every_relation - HELD_OUT_RELATIONS


def test_each_shape_and_colour_of_a_held_out_combination_is_common_in_training():
    things = [thing for scene in scenes("train") for thing in scene.things]

    assert min(Counter(thing.shape for thing in things).values()) > len(things) / len(SHAPES) / 2
    assert min(Counter(thing.colour for thing in things).values()) > len(things) / len(COLOURS) / 2


def test_the_same_seed_split_and_index_give_the_same_scene():
    assert scenes("train", count=50) == scenes("train", count=50)


def test_another_seed_gives_other_scenes():
    assert not set(scenes("test", seed=7, count=300)) & set(scenes("test", seed=8, count=300))


def test_splits_share_no_scene():
    train, validation, test = (set(scenes(split)) for split in ("train", "validation", "test"))

    assert not train & validation
    assert not train & test
    assert not validation & test
