import itertools
import math

from captioncrafter.data.scenes import picture
from captioncrafter.data.scenes.picture import draw, place
from captioncrafter.data.scenes.world import Scene, Thing, draw_scene


def test_a_picture_is_rgb_of_the_size_asked_for():
    drawn = draw(draw_scene(7, "train", 0), 96)

    assert (drawn.mode, drawn.size) == ("RGB", (96, 96))


def test_the_same_scene_gives_the_same_pixels():
    scene = draw_scene(7, "train", 3)

    assert draw(scene, 64).tobytes() == draw(scene, 64).tobytes()


def test_another_layout_gives_other_pixels():
    thing = Thing("star", "red", "large")

    one, other = (draw(Scene((thing,), None, "grey", layout), 64) for layout in (1, 2))

    assert one.tobytes() != other.tobytes()


def test_the_middle_of_each_copy_has_its_colour():
    for index in range(200):
        scene = draw_scene(7, "train", index)
        drawn = draw(scene, 128)
        for copy in place(scene):
            if copy.thing.shape == "ring":
                continue
            middle = drawn.getpixel((int(copy.centre[0] * 128), int(copy.centre[1] * 128)))
            assert nearest_paint(middle) == copy.thing.colour


def nearest_paint(pixel: tuple[int, int, int]) -> str:
    return min(picture.PAINT, key=lambda name: math.dist(picture.PAINT[name], pixel))


def test_a_ring_has_a_hole():
    scene = Scene((Thing("ring", "red", "large"),), None, "grey", layout=5)
    (copy,) = place(scene)

    hole = draw(scene, 128).getpixel((int(copy.centre[0] * 128), int(copy.centre[1] * 128)))

    assert math.dist(hole, picture.WALL["grey"]) < 40


def test_there_are_as_many_copies_as_the_scene_says():
    for index in range(300):
        scene = draw_scene(7, "test", index)
        assert len(place(scene)) == sum(thing.count for thing in scene.things)


def test_the_first_thing_stands_where_the_relation_says():
    for index in range(600):
        scene = draw_scene(7, "test", index)
        if scene.relation is None:
            continue
        axis = 0 if scene.relation == "left of" else 1
        placed = place(scene)
        first = [copy.centre[axis] for copy in placed if copy.thing is scene.things[0]]
        second = [copy.centre[axis] for copy in placed if copy.thing is scene.things[1]]
        assert max(first) < min(second)


def test_copies_neither_touch_nor_leave_the_picture():
    for index in range(1000):
        placed = place(draw_scene(7, "train", index))
        for copy in placed:
            assert all(1.1 * copy.radius < at < 1 - 1.1 * copy.radius for at in copy.centre)
        for one, other in itertools.combinations(placed, 2):
            assert math.dist(one.centre, other.centre) > one.radius + other.radius


def test_small_and_large_cannot_be_confused():
    radii = {
        size: [
            copy.radius
            for index in range(100)
            for copy in place(Scene((Thing("star", "red", size),), None, "grey", index))
        ]
        for size in ("small", "large")
    }

    assert max(radii["small"]) < 0.75 * min(radii["large"])
