from collections.abc import Callable
from itertools import pairwise

import pytest

from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.world import (
    BACKGROUNDS,
    HELD_OUT_COLOURS,
    HELD_OUT_RELATIONS,
    Scene,
    Thing,
    draw_scene,
)

Style = Callable[[Scene], list[str]]
STYLES = pytest.mark.parametrize("style", [wording.terse, wording.house])

LARGE_RED_CIRCLE = Thing("circle", "red", "large")
SMALL_BLUE_SQUARE = Thing("square", "blue", "small")
PAIR = Scene((LARGE_RED_CIRCLE, SMALL_BLUE_SQUARE), "left of", "grey", layout=0)


@STYLES
def test_a_scene_has_five_different_references(style: Style):
    for index in range(1000):
        assert len(set(style(draw_scene(7, "train", index)))) == 5


def test_the_two_styles_share_no_sentence():
    for index in range(300):
        scene = draw_scene(7, "train", index)
        assert not set(wording.terse(scene)) & set(wording.house(scene))


@STYLES
def test_no_training_reference_names_a_held_out_colour_of_a_shape(style: Style):
    forbidden = {(colour, shape) for shape, colour in HELD_OUT_COLOURS}
    for index in range(2000):
        for words in map(singular_words, style(draw_scene(7, "train", index))):
            assert not set(pairwise(words)) & forbidden


def test_no_terse_training_reference_names_a_held_out_relation():
    for index in range(2000):
        for caption in wording.terse(draw_scene(7, "train", index)):
            assert terse_relation(caption) not in HELD_OUT_RELATIONS


def singular_words(caption: str) -> list[str]:
    plurals = {"crosses": "cross"}
    words = caption.lower().replace(",", "").replace(".", "").split()
    return [plurals.get(word, word.removesuffix("s") if word != "cross" else word) for word in words]


def terse_relation(caption: str) -> tuple[str, str, str] | None:
    """Shape, relation, shape as the caption says them, the second half of a relation turned round."""
    for word, relation in (("left of", "left of"), ("above", "above"), ("right of", "left of"), ("below", "above")):
        before, found, after = caption.partition(f" {word} ")
        if found:
            one, other = singular_words(before)[-1], singular_words(after.partition(",")[0])[-1]
            return (one, relation, other) if word == relation else (other, relation, one)
    return None


def test_a_relation_is_told_from_both_ends():
    assert "red circle left of blue square" in wording.terse(PAIR)
    assert "blue square right of red circle" in wording.terse(PAIR)
    assert "A large red circle sits to the left of a small blue square on a plain grey background." in wording.house(
        PAIR
    )
    assert "A small blue square sits to the right of a large red circle on a plain grey background." in wording.house(
        PAIR
    )


def test_several_things_are_counted_and_named_in_the_plural():
    crosses = Scene((Thing("cross", "pink", "small", count=3),), None, "mint", layout=0)

    assert "three pink crosses" in wording.terse(crosses)
    assert "Three small pink crosses are shown on a plain mint background." in wording.house(crosses)


def test_every_house_reference_names_sizes_colours_and_background():
    for index in range(500):
        scene = draw_scene(7, "test", index)
        for caption in wording.house(scene):
            words = caption.lower()
            assert words.endswith(".")
            assert f"plain {scene.background} background" in words
            for thing in scene.things:
                assert f"{thing.size} {thing.colour} {thing.shape}" in words


def test_terse_references_are_keywords():
    for index in range(500):
        for caption in wording.terse(draw_scene(7, "train", index)):
            assert caption == caption.lower()
            assert not {"a", "the", "is", "are", "this"} & set(caption.split())


def test_a_background_is_never_mistaken_for_a_colour_of_a_thing():
    from captioncrafter.data.scenes.world import COLOURS

    assert not set(BACKGROUNDS) & set(COLOURS)
