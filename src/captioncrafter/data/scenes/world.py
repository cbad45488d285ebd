"""What a scene can hold, and which combinations training never shows.

Held out are some colours of each shape and some ordered pairs of shapes for each relation. No training scene holds
one; every validation and test scene holds at least one. Each word of a held-out combination is common in training,
so what is asked of a captioner is to see a new combination, not to know a new word.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

Split = Literal["train", "validation", "test"]

SHAPES = ("circle", "square", "triangle", "star", "diamond", "heart", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "black", "white", "brown")
SIZES = ("small", "large")
BACKGROUNDS = ("grey", "beige", "sky blue", "mint", "lavender", "navy")
RELATIONS = ("left of", "above")
"""From the first thing to the second; its second half ("right of", "below") is the same scene told the other way."""

HELD_OUT_COLOURS = frozenset(
    (shape, COLOURS[(3 * place + step) % len(COLOURS)]) for place, shape in enumerate(SHAPES) for step in (1, 5)
)
HELD_OUT_RELATIONS = frozenset(
    (shape, relation, SHAPES[(place + step) % len(SHAPES)])
    for place, shape in enumerate(SHAPES)
    for relation, step in (("left of", 3), ("above", 5))
)

_PAIR_SHARE = 0.7
_SECOND_COPY_SHARE = 0.15


@dataclass(frozen=True)
class Thing:
    """Some equal shapes side by side: `count` of them."""

    shape: str
    colour: str
    size: str
    count: int = 1


@dataclass(frozen=True)
class Scene:
    """One thing, or two and the `relation` of the first to the second, on a background.

    `layout` seeds what words do not say: exact places, shades, tilt.
    """

    things: tuple[Thing, ...]
    relation: str | None
    background: str
    layout: int


def draw_scene(seed: int, split: Split, index: int) -> Scene:
    """Scene number `index` of a split: always the same for the same three arguments."""
    dice = random.Random(f"{seed}/{split}/{index}")
    while True:
        scene = _any_scene(dice)
        if holds_held_out(scene) == (split != "train"):
            return scene


def holds_held_out(scene: Scene) -> bool:
    """Whether the scene holds a combination that training never shows."""
    if any((thing.shape, thing.colour) in HELD_OUT_COLOURS for thing in scene.things):
        return True
    if scene.relation is None:
        return False
    first, second = scene.things
    return (first.shape, scene.relation, second.shape) in HELD_OUT_RELATIONS


def _any_scene(dice: random.Random) -> Scene:
    background = dice.choice(BACKGROUNDS)
    first = any_thing(dice, background)
    layout = dice.getrandbits(32)
    if dice.random() >= _PAIR_SHARE:
        return Scene((replace(first, count=dice.randint(1, 4)),), None, background, layout)
    second = any_thing(dice, background)
    while (second.shape, second.colour) == (first.shape, first.colour):
        second = any_thing(dice, background)
    things = tuple(
        replace(thing, count=2) if dice.random() < _SECOND_COPY_SHARE else thing for thing in (first, second)
    )
    return Scene(things, dice.choice(RELATIONS), background, layout)


def any_thing(dice: random.Random, background: str) -> Thing:
    """One thing that can be told from `background`, held-out colours included."""
    colours = [colour for colour in COLOURS if (colour, background) not in (("black", "navy"), ("blue", "navy"))]
    return Thing(dice.choice(SHAPES), dice.choice(colours), dice.choice(SIZES))
