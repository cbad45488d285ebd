"""The top of the page says what scores.json says, times 100."""

from typing import Any

import pytest

from captioncrafter.report.content import System
from captioncrafter.report.headline import headline, score_table
from captioncrafter.report.pairwise import Against
from pages import METRICS, numbered, report_data, system


def scored(name: str, value: float, low: float | None = None, high: float | None = None) -> System:
    bounds = {} if low is None else {"low": low, "high": high}
    return System(name, {}, {"images": 1000, "metrics": {"CIDEr": {"value": value} | bounds}})


def sentences(*systems: System, **parts: Any) -> str:
    found = headline(report_data(*systems, **parts))
    assert found is not None
    return " ".join(found.sentences)


def test_the_table_shows_values_and_intervals_times_100():
    (row,) = score_table([scored("mine", 1.07849, 1.0366, 1.1201)])

    assert row.cells[0] is not None
    assert (row.cells[0].value, row.cells[0].interval) == ("107.8", "103.7 – 112.0")


def test_metrics_stand_in_their_usual_order():
    subject = system("mine", numbered(1))
    backwards = System("mine", {}, {"metrics": dict(reversed(subject.scores["metrics"].items()))})

    assert [row.metric for row in score_table([backwards])] == list(METRICS)


def test_the_best_value_of_a_row_is_marked():
    (row,) = score_table([scored("a", 0.5), scored("b", 0.7), scored("c", 0.6)])

    assert [cell is not None and cell.best for cell in row.cells] == [False, True, False]


def test_a_run_alone_is_not_called_the_best():
    (row,) = score_table([scored("a", 0.5)])

    assert row.cells[0] is not None and not row.cells[0].best


def test_a_metric_that_one_system_lacks_leaves_its_cell_empty():
    (row,) = score_table([scored("a", 0.5), System("b", {})])

    assert row.cells[1] is None


def test_a_clear_rise_is_said_to_be_one():
    assert sentences(scored("mine", 0.961, 0.89, 1.04), scored("base", 0.561, 0.53, 0.6)) == (
        "CIDEr rises from 56.1 (base) to 96.1; the 95 % intervals do not touch."
    )


def test_a_fall_is_said_to_be_one():
    assert sentences(scored("mine", 0.3, 0.28, 0.32), scored("base", 0.4, 0.38, 0.42)).startswith(
        "CIDEr falls from 40.0 (base) to 30.0"
    )


def test_intervals_that_overlap_settle_nothing():
    told = sentences(scored("mine", 0.5, 0.4, 0.6), scored("base", 0.45, 0.35, 0.55))

    assert told.endswith("the 95 % intervals overlap, so they alone do not settle which is better.")


def test_without_intervals_nothing_is_claimed_of_certainty():
    assert sentences(scored("mine", 0.5), scored("base", 0.45)).endswith("how sure that is was not measured.")


def test_metrics_that_are_taken_when_asked_for_stand_last_and_in_one_order():
    taken = {"VQA accuracy", "my own", "SPICE", "exact match", "RefCLIPScore", "CLIPScore", "CIDEr"}
    subject = System("mine", {}, {"metrics": {name: {"value": 0.5} for name in sorted(taken)}})

    rows = [row.metric for row in score_table([subject])]

    assert rows == ["CIDEr", "CLIPScore", "RefCLIPScore", "SPICE", "exact match", "VQA accuracy", "my own"]


@pytest.mark.parametrize(
    ("p", "told"), [(0.004, "chance in the choice of images hardly explains it."), (0.2, "that may be chance.")]
)
def test_where_the_same_images_were_compared_the_test_is_what_counts(p: float, told: str):
    tested = Against("CIDEr", 1, 0.05, -0.0125, 0.1, p, up=3, down=1)

    found = headline(report_data(scored("mine", 0.5, 0.4, 0.6), scored("base", 0.45, 0.35, 0.55)), [tested])

    assert found is not None
    assert found.sentences == [
        f"CIDEr rises from 45.0 (base) to 50.0; on the same images that is +5.0 (−1.2 to +10.0, p = {p:.3f}): {told}"
    ]


def test_the_images_that_gained_and_lost_are_counted():
    told = sentences(
        system("mine", numbered(4), [0.5, 0.5, 0.1, 0.2]), system("base", numbered(4), [0.1, 0.2, 0.3, 0.2])
    )

    assert told.endswith("Of 4 images 2 gain and 1 loses; 1 stays as it was.")


def test_a_run_alone_states_its_score():
    assert sentences(scored("mine", 0.5, 0.4, 0.6)) == "CIDEr 50.0, 95 % interval 40.0 – 60.0, on 1,000 images."


def test_without_scores_there_is_no_headline():
    assert headline(report_data(System("mine", numbered(2)))) is None
