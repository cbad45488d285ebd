"""Pictures full of single shapes, with what lies where: from these the miniature learns colours, shapes and sizes."""

import math
import random
from dataclasses import dataclass, replace

from PIL import Image

from captioncrafter.data.scenes.picture import PAINT, RADIUS, WALL, Colour, Placed, paint, place_at
from captioncrafter.data.scenes.world import BACKGROUNDS, COLOURS, HELD_OUT_COLOURS, SHAPES, SIZES, any_thing

from .model import IMAGE_SIZE, SIDE

IGNORE = -100
"""A label that carries no weight, as `cross_entropy` has it."""

GREY_SHARE = 0.25
ODD_SHARE = 0.5
CLEARANCE = 90.0
"""How far, in RGB, an odd paint keeps from the held-out colours of a shape, and from the wall behind it."""


@dataclass(frozen=True)
class Collage:
    """A picture and every shape in it, as it is painted; `named_colours` is false where the paints have no name."""

    picture: Image.Image
    copies: list[Placed]
    named_colours: bool


def collage(seed: str) -> Collage:
    """As many single things as fit: ten times as much to read as in a scene.

    No held-out colour of a shape occurs. Half of the collages are in odd paints, a quarter are drained of colour, so
    that shapes are told apart by their form: from named colours alone a reader learns which shapes a colour comes in,
    and takes a held-out black triangle for a star.
    """
    dice = random.Random(seed)
    background = dice.choice(BACKGROUNDS)
    kind = dice.random()
    odd, grey = kind < ODD_SHARE, ODD_SHARE <= kind < ODD_SHARE + GREY_SHARE
    copies: list[Placed] = []
    for _ in range(40):
        thing = any_thing(dice, background)
        reach = RADIUS[thing.size]
        copy = place_at((dice.uniform(reach, 1 - reach), dice.uniform(reach, 1 - reach)), thing, dice)
        apart = all(math.dist(copy.centre, other.centre) > 1.05 * (copy.radius + other.radius) for other in copies)
        if apart and odd:
            copies.append(replace(copy, paint=_odd_paint(thing.shape, background, dice)))
        elif apart and (thing.shape, thing.colour) not in HELD_OUT_COLOURS:
            copies.append(copy)
    picture = paint(copies, background, IMAGE_SIZE, light=dice.getrandbits(32))
    return Collage(picture.convert("L").convert("RGB") if grey else picture, copies, not (odd or grey))


def _odd_paint(shape: str, background: str, dice: random.Random) -> Colour:
    """Any colour that is neither near a held-out one of the shape nor near the wall's."""
    shunned = [PAINT[colour] for held_out, colour in HELD_OUT_COLOURS if held_out == shape] + [WALL[background]]
    while True:
        colour = (dice.randrange(256), dice.randrange(256), dice.randrange(256))
        if all(math.dist(colour, other) > CLEARANCE for other in shunned):
            return colour


def under_cells(collage: Collage, side: int) -> list[tuple[int, int, int]]:
    """For each cell of a `side` × `side` grid, row by row, the indices of colour, shape and size of what covers it."""
    labels = []
    for cell in range(side * side):
        middle = ((cell % side + 0.5) / side, (cell // side + 0.5) / side)
        nearest = min(collage.copies, key=lambda copy: math.dist(copy.centre, middle) - copy.radius)
        thing = nearest.thing
        if math.dist(nearest.centre, middle) > nearest.radius + (0.3 / SIDE if side == SIDE else 0.0):
            labels.append((len(COLOURS), len(SHAPES), len(SIZES)))
        else:
            colour = COLOURS.index(thing.colour) if collage.named_colours else IGNORE
            labels.append((colour, SHAPES.index(thing.shape), SIZES.index(thing.size)))
    return labels
