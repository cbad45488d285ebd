"""Draws a scene with Pillow: a soft background, shapes with a shadow and a rim, antialiased."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from captioncrafter.data.scenes.world import Scene, Thing

Colour = tuple[int, int, int]
Point = tuple[float, float]

PAINT: dict[str, Colour] = {
    "red": (214, 48, 49),
    "green": (46, 158, 79),
    "blue": (48, 99, 214),
    "yellow": (246, 205, 64),
    "purple": (136, 62, 175),
    "orange": (240, 134, 40),
    "pink": (243, 140, 182),
    "black": (34, 36, 42),
    "white": (250, 250, 248),
    "brown": (128, 82, 48),
}
WALL: dict[str, Colour] = {
    "grey": (176, 180, 186),
    "beige": (232, 215, 184),
    "sky blue": (158, 205, 240),
    "mint": (172, 228, 200),
    "lavender": (204, 192, 238),
    "navy": (38, 52, 98),
}
RADIUS = {"small": 0.1, "large": 0.165}
"""Half a thing's width, in shares of the picture's side; each copy is up to 8 % smaller or larger."""

_OVERSAMPLING = 2


@dataclass(frozen=True)
class Placed:
    """One copy of a thing as it is drawn: centre and radius in shares of the picture's side, tilt in radians, paint."""

    thing: Thing
    centre: Point
    radius: float
    tilt: float
    paint: Colour


def draw(scene: Scene, size: int) -> Image.Image:
    """The scene as an RGB picture of `size` × `size` pixels."""
    return paint(place(scene), scene.background, size, light=scene.layout)


def paint(copies: Sequence[Placed], background: str, size: int, *, light: int) -> Image.Image:
    """Shapes where they are placed, later ones over earlier ones; `light` seeds how the background is lit."""
    pixels = size * _OVERSAMPLING
    canvas = _background(WALL[background], pixels, random.Random(f"background {light}"))
    pen = ImageDraw.Draw(canvas)
    for copy in copies:
        _draw_shape(pen, copy, pixels)
    return canvas.reduce(_OVERSAMPLING)


def place(scene: Scene) -> list[Placed]:
    """Every copy of every thing with its place in the picture, in the order they are drawn."""
    dice = random.Random(scene.layout)
    return [
        place_at(centre, thing, dice)
        for thing, middle in zip(scene.things, _centres(scene, dice), strict=True)
        for centre in _places(thing, middle, scene.relation, dice)
    ]


def place_at(centre: Point, thing: Thing, dice: random.Random) -> Placed:
    """One copy of `thing` at `centre`, a little larger, smaller, turned, lighter or darker than the next."""
    radius = RADIUS[thing.size] * dice.uniform(0.92, 1.08)
    tilt = dice.uniform(-0.12, 0.12)
    return Placed(thing, centre, radius, tilt, _shade(PAINT[thing.colour], dice.uniform(0.94, 1.04)))


def _background(wall: Colour, pixels: int, dice: random.Random) -> Image.Image:
    corners = Image.new("RGB", (2, 2))
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corners.putpixel(corner, _shade(wall, dice.uniform(0.92, 1.08)))
    return corners.resize((pixels, pixels), Image.Resampling.BILINEAR)


def _centres(scene: Scene, dice: random.Random) -> list[Point]:
    """Where the things are, in shares of the picture's side."""
    if scene.relation is None:
        return [(dice.uniform(0.42, 0.58), dice.uniform(0.4, 0.6))]
    near, far = dice.uniform(0.24, 0.3), dice.uniform(0.7, 0.76)
    drift = dice.uniform(-0.08, 0.08)
    if scene.relation == "left of":
        return [(near, 0.5 + drift), (far, 0.5 - drift)]
    return [(0.5 + drift, near), (0.5 - drift, far)]


def _places(thing: Thing, centre: Point, relation: str | None, dice: random.Random) -> list[Point]:
    """Centres of a thing's copies: across the direction of the relation; many large ones stand in two rows."""
    step = 2.35 * RADIUS[thing.size]
    columns = thing.count if thing.count * step < 0.9 else 2
    columns = 1 if relation == "left of" else columns
    rows = math.ceil(thing.count / columns)
    places = []
    for copy in range(thing.count):
        row, column = divmod(copy, columns)
        in_row = min(columns, thing.count - row * columns)
        x = centre[0] + (column - (in_row - 1) / 2) * step
        y = centre[1] + (row - (rows - 1) / 2) * step
        places.append((x + dice.uniform(-0.008, 0.008), y + dice.uniform(-0.008, 0.008)))
    return places


def _draw_shape(pen: ImageDraw.ImageDraw, placed: Placed, pixels: int) -> None:
    (x, y), radius = placed.centre, placed.radius
    paint, rim = placed.paint, _shade(placed.paint, 0.72)
    if placed.thing.shape == "ring":
        _draw_ring(pen, (x * pixels, y * pixels), radius * pixels, paint, rim)
        return
    outline = [(x + radius * dx, y + radius * dy) for dx, dy in _outline(placed.thing.shape, placed.tilt)]
    shadow = [((left + 0.012) * pixels, (top + 0.016) * pixels) for left, top in outline]
    corners = [(left * pixels, top * pixels) for left, top in outline]
    pen.polygon(shadow, fill=(70, 72, 80))
    pen.polygon(corners, fill=paint)
    pen.line([*corners, corners[0], corners[1]], fill=rim, width=max(2, pixels // 110), joint="curve")


def _draw_ring(pen: ImageDraw.ImageDraw, centre: Point, radius: float, paint: Colour, rim: Colour) -> None:
    x, y = centre
    for reach, colour, width in ((radius, rim, 0.42), (0.96 * radius, paint, 0.34)):
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour, width=round(radius * width))


def _outline(shape: str, tilt: float) -> list[Point]:
    """The shape's corners around (0, 0), within radius 1, turned by `tilt` radians; y points down."""
    corners = _CORNERS[shape]
    cosine, sine = math.cos(tilt), math.sin(tilt)
    return [(x * cosine - y * sine, x * sine + y * cosine) for x, y in corners]


def _regular(count: int, start: float, inner: float | None = None) -> list[Point]:
    steps = count * 2 if inner else count
    points = []
    for step in range(steps):
        reach = inner if inner and step % 2 else 1.0
        angle = start + 2 * math.pi * step / steps
        points.append((reach * math.cos(angle), reach * math.sin(angle)))
    return points


def _heart() -> list[Point]:
    points = []
    for step in range(40):
        t = 2 * math.pi * step / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, -(y + 2) / 17))
    return points


def _cross(arm: float = 0.34) -> list[Point]:
    return [
        (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
        (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
    ]  # fmt: skip


_CORNERS: dict[str, list[Point]] = {
    "circle": _regular(48, 0.0),
    "ring": _regular(48, 0.0),
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -1.0), (0.98, 0.8), (-0.98, 0.8)],
    "diamond": [(0.0, -1.1), (0.72, 0.0), (0.0, 1.1), (-0.72, 0.0)],
    "star": _regular(5, -math.pi / 2, inner=0.45),
    "heart": _heart(),
    "cross": _cross(),
}


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue
