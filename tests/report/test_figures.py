"""What the charts of a page show, out of logs and captions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from captioncrafter.report.content import System
from captioncrafter.report.figures import caption_figures, training_figures
from pages import numbered, report_data, system

STEPS = [
    {"kind": "step", "step": 10 * (n + 1), "epoch": 0.1 * (n + 1), "loss": 4.0 - n, "captions_per_s": 100.0}
    for n in range(4)
]
VALIDATIONS = [
    {"kind": "validation", "step": 0, "CIDEr": 0.1, "shuffled_CIDEr": 0.05, "best": False},
    {"kind": "validation", "step": 20, "CIDEr": 0.6, "shuffled_CIDEr": 0.06, "best": True},
    {"kind": "validation", "step": 40, "CIDEr": 0.5, "shuffled_CIDEr": 0.07, "best": False},
]  # fmt: skip


def trained(log: Sequence[Mapping[str, Any]], name: str = "mine") -> System:
    return System(name, {}, log=log)


def test_training_is_told_by_loss_and_cider():
    loss, cider = training_figures([trained(STEPS + VALIDATIONS)])

    assert loss.note == "From 4.00 to 1.00 nats a token in 40 steps, 0.4 epochs, at 100 captions a second."
    assert cider.note.startswith("The adapter of step 20 was kept: CIDEr 60.0.")


def test_curves_are_described_in_words():
    loss, cider = training_figures([trained(STEPS + VALIDATIONS)])

    assert ElementTree.fromstring(loss.chart).get("aria-label") == (
        "Training loss by step, from 4.00 to 1.00 nats a token over 4 log rows."
    )
    assert ElementTree.fromstring(cider.chart).get("aria-label") == (
        "Validation CIDEr by training step: 10.0 at step 0, 60.0 at step 20, 50.0 at step 40."
    )


def test_an_empty_log_has_no_figures():
    assert training_figures([trained([])]) == []


def test_a_loss_that_is_not_a_number_is_left_out():
    (loss,) = training_figures([trained([*STEPS, {"kind": "step", "step": 50, "loss": math.nan, "epoch": 0.5}])])

    assert "to 1.00 nats" in loss.note
    assert "nan" not in loss.chart


def test_validation_without_shuffled_images_has_one_curve():
    (cider,) = training_figures([trained([{"kind": "validation", "step": 5, "CIDEr": 0.3}])])

    assert "shuffled" not in cider.chart


def test_other_runs_curves_stand_in_one_chart_and_a_legend_tells_which_is_which():
    systems = [trained(VALIDATIONS), System("base", {}), trained(VALIDATIONS[:2], "another")]

    (cider,) = training_figures(systems)

    assert list(cider.legend) == [("mine", "subject"), ("another", "third")]
    lines = [one.get("class") for one in ElementTree.fromstring(cider.chart).iter("path")]
    assert [name for name in lines if name and name.startswith("line")] == [
        "line third",
        "line subject",
        "line shuffled",
    ]


def test_one_run_alone_needs_no_legend():
    (cider,) = training_figures([trained(VALIDATIONS), System("base", {})])

    assert cider.legend == []
    assert ">CIDEr<" in cider.chart


def test_a_long_log_does_not_weigh_the_page_down():
    long = [{"kind": "step", "step": n, "loss": 1 + 1 / n, "epoch": n / 100} for n in range(1, 50_000)]

    (loss,) = training_figures([trained(long)])

    assert len(loss.chart) < 40_000
    assert "49,999 steps" in loss.note


def test_lengths_are_compared_with_one_reference_an_image():
    data = report_data(System("mine", {"0.jpg": "a dog"}), references={"0.jpg": ["a very big dog", "dog"]})

    (lengths,) = caption_figures(data, None)

    assert lengths.note == "Mean words in a caption: mine 2.0, people 4.0."
    assert lengths.legend == [("mine", "subject"), ("people", "people")]


def test_runs_of_the_same_name_are_both_drawn():
    data = report_data(system("out", numbered(2), [0.1, 0.2]), system("out", numbered(2), [0.3, 0.4]))

    for figure in caption_figures(data, "CIDEr"):
        assert figure.legend == [("out", "subject"), ("out", "base")]
        assert figure.chart.count('class="bars') == 2


def test_values_of_single_images_are_told_by_their_median():
    data = report_data(system("mine", numbered(3), [0.1, 0.2, 0.9]), system("base", numbered(3)))

    _, scores = caption_figures(data, "CIDEr")

    assert scores.note == "Median: mine 20.0."


def test_captions_without_a_word_still_have_a_figure():
    (lengths,) = caption_figures(report_data(System("mine", {"0.jpg": "", "1.jpg": ""})), None)

    assert lengths.note == "Mean words in a caption: mine 0.0."
