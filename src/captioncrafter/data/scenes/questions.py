"""Questions about a scene, each with the one answer that its picture gives.

Who does not look has little to go by: yes and no are as likely, a wrong colour or relation in a question is drawn like
the right ones, and nothing is counted that is mostly one. No question about a training scene names a held-out
combination, not even to deny it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from captioncrafter.data.scenes.wording import NUMBERS, OPPOSITE, noun
from captioncrafter.data.scenes.world import COLOURS, HELD_OUT_COLOURS, HELD_OUT_RELATIONS, RELATIONS, Scene, Thing

_TURNED = {opposite: relation for relation, opposite in OPPOSITE.items()}
_SIDES = (*OPPOSITE, *_TURNED)


@dataclass(frozen=True)
class Question:
    """What is asked, and every accepted answer. `kind` is another for each question about a scene."""

    kind: str
    text: str
    answers: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The question in BLIP-2's format for visual question answering (Li et al., 2023)."""
        return f"Question: {self.text} Answer:"


def ask(scene: Scene, count: int) -> list[Question]:
    """`count` questions of different kinds, always the same of a scene. Five kinds or more fit every scene."""
    dice = random.Random(f"questions {scene.layout}")
    asked = [question for kind in _KINDS if (question := kind(scene, dice)) is not None]
    return dice.sample(asked, count)


def _colour(scene: Scene, dice: random.Random) -> Question | None:
    things = _of_own_shape(scene)
    if not things:
        return None
    thing = dice.choice(things)
    return Question("colour", f"what colour {_is(thing)} the {noun(thing)}?", (thing.colour,))


def _shape(scene: Scene, dice: random.Random) -> Question | None:
    things = [thing for thing in scene.things if [other.colour for other in scene.things].count(thing.colour) == 1]
    if not things:
        return None
    thing = dice.choice(things)
    return Question("shape", f"which shape is {thing.colour}?", (thing.shape,))


def _count(scene: Scene, dice: random.Random) -> Question | None:
    """Asked where one kind of thing is shown: there one to four are as likely, else most are one."""
    if scene.relation is not None:
        return None
    (thing,) = scene.things
    several = noun(Thing(thing.shape, thing.colour, thing.size, count=2))
    return Question("count", f"how many {several} are there?", (NUMBERS[thing.count],))


def _size(scene: Scene, dice: random.Random) -> Question:
    thing = dice.choice(scene.things)
    return Question("size", f"{_is(thing)} the {_name(thing, scene)} small or large?", (thing.size,))


def _background(scene: Scene, dice: random.Random) -> Question:
    return Question("background", "what colour is the background?", (scene.background,))


def _side(scene: Scene, dice: random.Random) -> Question | None:
    if scene.relation is None:
        return None
    thing, other, side = _pair(scene, dice)
    text = f"on which side of the {_name(other, scene)} {_is(thing)} the {_name(thing, scene)}?"
    return Question("side", text, (side.removesuffix(" of"),))


def _neighbour(scene: Scene, dice: random.Random) -> Question | None:
    if scene.relation is None or not _of_own_shape(scene):
        return None
    thing, other, side = _pair(scene, dice)
    return Question("neighbour", f"which shape is {side} the {noun(other)}?", (thing.shape,))


def _colour_yes_no(scene: Scene, dice: random.Random) -> Question | None:
    things = _of_own_shape(scene)
    if not things:
        return None
    thing = dice.choice(things)
    true = dice.random() < 0.5
    colour = thing.colour if true else dice.choice(_other_colours(thing))
    return Question("colour-yes-no", f"{_is(thing)} the {noun(thing)} {colour}?", (_yes_no(true),))


def _relation_yes_no(scene: Scene, dice: random.Random) -> Question | None:
    if scene.relation is None:
        return None
    thing, other, side = _pair(scene, dice)
    true = dice.random() < 0.5
    told = side if true else dice.choice(_other_sides(thing, side, other))
    text = f"{_is(thing)} the {_name(thing, scene)} {told} the {_name(other, scene)}?"
    return Question("relation-yes-no", text, (_yes_no(true),))


_KINDS: tuple[Callable[[Scene, random.Random], Question | None], ...] = (
    _colour,
    _shape,
    _count,
    _size,
    _background,
    _side,
    _neighbour,
    _colour_yes_no,
    _relation_yes_no,
)


def _of_own_shape(scene: Scene) -> list[Thing]:
    """The things that their shape alone tells from the rest."""
    shapes = [thing.shape for thing in scene.things]
    return [thing for thing in scene.things if shapes.count(thing.shape) == 1]


def _name(thing: Thing, scene: Scene) -> str:
    return noun(thing) if thing in _of_own_shape(scene) else f"{thing.colour} {noun(thing)}"


def _is(thing: Thing) -> str:
    return "is" if thing.count == 1 else "are"


def _yes_no(true: bool) -> str:
    return "yes" if true else "no"


def _pair(scene: Scene, dice: random.Random) -> tuple[Thing, Thing, str]:
    """Both things, and where the first of them is from the second; told from either end."""
    first, second = scene.things
    relation = scene.relation or RELATIONS[0]
    return (first, second, relation) if dice.random() < 0.5 else (second, first, OPPOSITE[relation])


def _other_colours(thing: Thing) -> list[str]:
    """Held out of this shape if the thing's own colour is, and shown in training if that is."""
    held_out = (thing.shape, thing.colour) in HELD_OUT_COLOURS
    return [
        colour
        for colour in COLOURS
        if colour != thing.colour and ((thing.shape, colour) in HELD_OUT_COLOURS) == held_out
    ]


def _other_sides(thing: Thing, side: str, other: Thing) -> list[str]:
    """Where the thing is not; held out of these two shapes if where it is, is."""
    held_out = _side_held_out(thing, side, other)
    return [told for told in _SIDES if told != side and _side_held_out(thing, told, other) == held_out]


def _side_held_out(thing: Thing, side: str, other: Thing) -> bool:
    if side in _TURNED:
        thing, side, other = other, _TURNED[side], thing
    return (thing.shape, side, other.shape) in HELD_OUT_RELATIONS
