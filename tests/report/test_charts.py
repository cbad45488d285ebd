"""Charts as SVG: well-formed, described, and drawn where the numbers are."""

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from captioncrafter.report.charts import (
    HEIGHT,
    STRIP_WIDTH,
    WIDTH,
    Bars,
    Interval,
    Line,
    gap_strip,
    histogram,
    interval_strip,
    line_chart,
    ticks,
)

CURVE = Line("CIDEr", [(0, 10.0), (50, 60.0), (100, 80.0)], "subject", dotted=True, ringed=(2,))


def drawn(*lines: Line, description: str = "A curve.") -> Element:
    return ElementTree.fromstring(line_chart(lines, x_title="step", y_title="score", description=description))


def points_of(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def classed(svg: Element, name: str) -> list[Element]:
    return [one for one in svg.iter() if name in one.get("class", "").split()]


def labels(svg: Element, name: str) -> list[str]:
    return ["".join(one.itertext()) for one in classed(svg, name) if one.tag == "text"]


def test_a_line_chart_is_well_formed_and_described():
    svg = drawn(CURVE, description="From 10 to 80.")

    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "From 10 to 80."


def test_words_in_a_chart_are_inert():
    hostile = "</text></svg><script>alert(1)</script>\"'&"

    svg = drawn(Line(hostile, [(0, 1.0), (1, 2.0)], "subject"), description=hostile)

    assert labels(svg, "label") == [hostile]
    assert svg.get("aria-label") == hostile
    assert {one.tag for one in svg.iter()} == {"svg", "path", "text"}


def test_a_line_passes_through_its_values():
    (line,) = classed(drawn(CURVE), "line")

    xs, ys = zip(*points_of(line.get("d", "")), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert (ys[0] - ys[1]) / (ys[1] - ys[2]) == pytest.approx(50 / 20, abs=0.05)


def test_nothing_is_drawn_outside_of_the_chart():
    svg = drawn(CURVE, Line("shuffled", [(0, 5.0), (100, 7.0)], "shuffled"))

    for one in classed(svg, "line"):
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points_of(one.get("d", "")))


def test_a_ring_stands_on_the_point_that_stands_out():
    svg = drawn(CURVE)

    (ring,), (line,) = classed(svg, "ring"), classed(svg, "line")
    assert (float(ring.get("cx", "")), float(ring.get("cy", ""))) == points_of(line.get("d", ""))[2]


def test_names_of_lines_that_end_together_do_not_overlap():
    svg = drawn(Line("a", [(0, 1.0), (9, 50.0)], "subject"), Line("b", [(0, 1.0), (9, 50.1)], "base"))

    first, second = (float(one.get("y", "")) for one in classed(svg, "label"))
    assert abs(first - second) >= 12


def test_the_vertical_axis_starts_at_zero():
    assert labels(drawn(CURVE), "end")[0] == "0"


def test_values_far_from_zero_and_near_each_other_get_an_axis_of_their_own():
    assert float(labels(drawn(Line("", [(0, 90.0), (1, 100.0)], "subject")), "end")[0]) == 90


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_single_point_is_drawn(value: float):
    svg = drawn(Line("one", [(5, value)], "subject"))

    assert len(classed(svg, "dots")) == 1


def test_steps_are_counted_in_whole_numbers():
    svg = drawn(Line("", [(0, 1.0), (12, 2.0)], "subject"))

    assert all(float(label).is_integer() for label in labels(svg, "middle"))
    assert "." not in "".join(labels(svg, "middle"))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.037), (0, 7.3), (2, 12), (0, 14990), (-3, 4), (5, 5), (0, 0)])
def test_ticks_reach_around_the_values(low: float, high: float):
    found = ticks(low, high)

    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert 2 <= len(found) <= 8


@pytest.mark.parametrize("high", [0.4, 1.5, 3.5, 11.5, 12, 23.5, 120])
def test_whole_ticks_are_whole(high: float):
    assert all(float(tick).is_integer() for tick in ticks(-0.5, high, whole=True))


def test_each_bin_of_a_histogram_is_as_high_as_its_number():
    chart = histogram(
        [Bars([10.0, 40.0, 20.0], "subject")], [0, 1, 2, 3], x_title="words", y_title="%", description="Lengths."
    )

    svg = ElementTree.fromstring(chart)
    heights = [float(y) for y in re.findall(r"V([\d.]+)", classed(svg, "bars")[0].get("d", ""))]
    ground = heights[-1]
    assert [(ground - y) / (ground - heights[1]) for y in heights[:3]] == pytest.approx([0.25, 1, 0.5], abs=0.01)
    assert svg.get("aria-label") == "Lengths."


def test_an_empty_histogram_is_still_well_formed():
    chart = histogram([Bars([0.0], "subject")], [-0.5, 0.5], x_title="", y_title="", description="Nothing.", whole=True)

    assert labels(ElementTree.fromstring(chart), "middle") == ["0"]


def test_an_interval_strip_draws_the_value_within_its_whisker():
    svg = ElementTree.fromstring(interval_strip([Interval(0.5, 0.4, 0.6, "subject")], 1.0))

    (whisker,), (point,) = classed(svg, "whisker"), classed(svg, "point")
    start, end = (float(x) for x in re.findall(r"[MH]([\d.]+)", whisker.get("d", "")))
    assert start < float(point.get("cx", "")) < end
    assert float(point.get("cx", "")) == pytest.approx(STRIP_WIDTH / 2)


def test_a_value_without_an_interval_has_no_whisker():
    svg = ElementTree.fromstring(interval_strip([Interval(0.5, None, None, "base")], 1.0))

    assert not classed(svg, "whisker")
    assert len(classed(svg, "point")) == 1


def test_strips_are_left_to_the_numbers_beside_them_where_a_page_is_read_out():
    assert ElementTree.fromstring(interval_strip([Interval(0, None, None, "base")], 0.0)).get("aria-hidden") == "true"


def test_a_gap_strip_is_hollow_where_images_are_shuffled():
    svg = ElementTree.fromstring(gap_strip(0.9, 0.3, 1.0, "subject"))

    (hollow,) = classed(svg, "hollow")
    (full,) = [one for one in classed(svg, "point") if one is not hollow]
    assert float(hollow.get("cx", "")) < float(full.get("cx", ""))
