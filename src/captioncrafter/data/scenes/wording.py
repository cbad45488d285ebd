"""How a scene is put into words: five references in each of two written styles."""

from captioncrafter.data.scenes.world import Scene, Thing

_PLURALS = {"cross": "crosses"}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
OPPOSITE = {"left of": "right of", "above": "below"}
_HOUSE_PLACE = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
}
_HOUSE_SIDE = {"right of": "to the right", "below": "underneath", "left of": "to the left", "above": "overhead"}


def terse(scene: Scene) -> list[str]:
    """Five captions of keywords, as someone in a hurry tags a picture; colours and shapes always, sizes sometimes."""
    background = f"{scene.background} background"
    if scene.relation is None:
        (thing,) = scene.things
        plain, sized = _terse(thing), _terse(thing, size=True)
        return [plain, sized, f"{plain} on {background}", f"{sized} on {background}", f"{plain}, {background}"]
    first, second = scene.things
    a, b, back = _terse(first), _terse(second), OPPOSITE[scene.relation]
    return [
        f"{a} {scene.relation} {b}",
        f"{b} {back} {a}",
        f"{_terse(first, size=True)} {scene.relation} {_terse(second, size=True)}",
        f"{a} {scene.relation} {b}, {background}",
        f"{a} and {b} on {background}",
    ]


def house(scene: Scene) -> list[str]:
    """Five full sentences that always give sizes, places and the background, as a catalogue would."""
    background = f"a plain {scene.background} background"
    if scene.relation is None:
        (thing,) = scene.things
        it, verb = _house(thing), "is" if thing.count == 1 else "are"
        return [
            f"{_capital(it)} {verb} shown on {background}.",
            f"This picture shows {it} on {background}.",
            f"On {background}, {it} {verb} shown.",
            f"{_capital(it)} {'rests' if thing.count == 1 else 'rest'} on {background}.",
            f"We see {it} against {background}.",
        ]
    first, second = scene.things
    a, b, back = _house(first), _house(second), OPPOSITE[scene.relation]
    place, opposite = _HOUSE_PLACE[scene.relation], _HOUSE_PLACE[back]
    verb = "sits" if first.count == 1 else "sit"
    return [
        f"{_capital(a)} {verb} {place} {b} on {background}.",
        f"This picture shows {a} {place} {b} on {background}.",
        f"On {background}, {a} {verb} {place} {b}.",
        f"{_capital(b)} {'sits' if second.count == 1 else 'sit'} {opposite} {a} on {background}.",
        f"We see {a} and, {_HOUSE_SIDE[back]}, {b} against {background}.",
    ]


def noun(thing: Thing) -> str:
    """The thing's shape, in the plural where there are several."""
    return thing.shape if thing.count == 1 else _PLURALS.get(thing.shape, f"{thing.shape}s")


def _terse(thing: Thing, *, size: bool = False) -> str:
    number = [NUMBERS[thing.count]] if thing.count > 1 else []
    return " ".join([*number, *([thing.size] if size else []), thing.colour, noun(thing)])


def _house(thing: Thing) -> str:
    words = f"{thing.size} {thing.colour} {noun(thing)}"
    return f"a {words}" if thing.count == 1 else f"{NUMBERS[thing.count]} {words}"


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
