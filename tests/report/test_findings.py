"""What puts scores in doubt is said, and nothing else is."""

import pytest

from captioncrafter.report.content import System
from captioncrafter.report.findings import caption_measures, findings, grounding_table
from pages import numbered, report_data, system


def said_of(subject: System) -> dict[str, bool]:
    return {finding.text: finding.alarming for finding in findings(report_data(subject))}


def test_captions_that_score_alike_on_shuffled_images_raise_the_alarm():
    said = said_of(system("mine", {}, grounding={"CIDEr": 0.55, "shuffled_CIDEr": 0.5}))

    assert said == {
        "The captions hardly depend on the images: with images shuffled CIDEr is 50.0, with the right ones 55.0.": True
    }


def test_captions_that_depend_on_the_image_do_not():
    said = said_of(system("mine", {}, grounding={"CIDEr": 0.9, "shuffled_CIDEr": 0.1}))

    assert said == {"The captions depend on the images: with images shuffled CIDEr falls from 90.0 to 10.0.": False}


@pytest.mark.parametrize("grounding", [{}, {"CIDEr": 0.5}])
def test_grounding_that_was_not_measured_is_not_spoken_of(grounding: dict[str, float]):
    assert said_of(system("mine", {}, grounding=grounding)) == {}
    assert grounding_table([system("mine", {}, grounding=grounding)]) == []


def test_one_caption_for_many_images_raises_the_alarm():
    captions = numbered(40) | {f"{number}.jpg": "a man" for number in range(4)}

    assert said_of(System("mine", captions)) == {"The captions have collapsed: 4 of 40 images get “a man”.": True}


def test_a_caption_given_now_and_then_does_not():
    captions = numbered(40) | {f"{number}.jpg": "a man" for number in range(3)}

    assert said_of(System("mine", captions)) == {
        "38 of 40 captions are different texts; the commonest is given 3 times.": False
    }


def test_ten_different_captions_are_no_collapse():
    assert said_of(System("mine", numbered(10))) == {
        "10 of 10 captions are different texts; the commonest is given once.": False
    }


def test_a_long_caption_is_quoted_in_part():
    (text,) = said_of(System("mine", numbered(20, " ".join(f"word{number}" for number in range(100)))))

    assert len(text) < 250
    assert text.endswith(" …”.")


def test_empty_captions_raise_the_alarm_once():
    captions = numbered(40) | {f"{number}.jpg": " " for number in range(20)}

    alarms = [text for text, alarming in said_of(System("mine", captions)).items() if alarming]

    assert alarms == ["20 captions are empty."]


def test_captions_that_repeat_themselves_raise_the_alarm():
    captions = numbered(40) | {f"{number}.jpg": f"dog {number} and a dog {number} and" for number in range(2)}
    people = {image: ["a dog runs"] for image in captions}

    alarms = [found.text for found in findings(report_data(System("mine", captions), references=people))[1:]]

    assert alarms == ["5.0 % of the captions say a phrase again; of those by people 0.0 %."]


def test_repetition_that_people_show_too_does_not():
    captions = numbered(40) | {f"{number}.jpg": f"dog {number} and a dog {number} and" for number in range(5)}
    people = {image: [text] for image, text in captions.items()}

    assert not any(one.alarming for one in findings(report_data(System("mine", captions), references=people)))


def test_images_that_were_in_training_raise_the_alarm():
    seen = {"images": 12, "image_ids": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "compared_by": "image bytes"}

    (told,) = said_of(system("mine", {}, images=1000, seen_in_training=seen)).items()

    assert told == (
        "12 of the 1,000 evaluated images were in training too, by their image bytes (a.jpg, b.jpg, c.jpg, …): the "
        "scores tell what was learned by heart, not how new images fare.",
        True,
    )


def test_that_no_image_was_in_training_is_said_where_it_was_looked_for():
    assert said_of(system("mine", {}, seen_in_training={"images": 0, "image_ids": [], "compared_by": "image ids"})) == {
        "None of the evaluated images was in training, by their image ids.": False
    }


def test_scores_of_a_part_raise_the_alarm():
    partial = {"images_without_prediction": 3, "predictions_without_reference": 0}

    assert said_of(system("mine", {}, partial=partial)) == {
        "The scores are of a part of the images: 3 images without prediction. They compare with no scores of the "
        "whole.": True
    }


def test_alarms_about_the_others_name_them():
    other = system("other", {}, grounding={"CIDEr": 0.5, "shuffled_CIDEr": 0.5})

    told = [finding.text for finding in findings(report_data(system("mine", numbered(20)), other))]

    assert told[1:] == [
        "other: the captions hardly depend on the images: with images shuffled CIDEr is 50.0, with the right ones 50.0."
    ]


def test_what_is_well_with_the_others_is_not_listed():
    assert findings(report_data(System("mine", {}), System("base", numbered(20)))) == []


def test_grounding_stands_beside_each_other_for_all_that_have_it():
    systems = [
        system("mine", {}, grounding={"CIDEr": 0.9, "shuffled_CIDEr": 0.1}),
        system("base", {}),
        system("other", {}, grounding={"CIDEr": 0.4, "shuffled_CIDEr": 0.2}),
    ]

    rows = grounding_table(systems)

    assert [(row.system, row.real, row.shuffled) for row in rows] == [
        ("mine", "90.0", "10.0"),
        ("other", "40.0", "20.0"),
    ]


def test_captions_are_measured_as_texts_beside_those_of_people():
    subject = System("mine", {"0.jpg": "a dog", "1.jpg": "a dog", "2.jpg": "a a cat", "3.jpg": "dogs"})
    people = {"0.jpg": ["one two", "x"], "1.jpg": ["three four five six", "y"]}

    measures = {one.name: list(one.values) for one in caption_measures(report_data(subject, references=people))}

    assert measures == {
        "different captions": ["75.0 %", "100.0 %"],
        "images with the commonest caption": ["50.0 %", "50.0 %"],
        "mean words in a caption": ["2.0", "3.0"],
        "vocabulary, words": ["4", "6"],
        "distinct-1: different words of all": ["50.0 %", "100.0 %"],
        "distinct-2: different word pairs of all": ["75.0 %", "100.0 %"],
        "captions with a word twice in a row": ["25.0 %", "0.0 %"],
        "captions that say a phrase again": ["0.0 %", "0.0 %"],
    }


def test_novelty_is_shown_where_it_was_measured():
    subject = system("mine", numbered(2), diversity={"novel_captions": 0.25})

    measures = caption_measures(report_data(subject, System("base", numbered(2)), references={"0.jpg": ["a"]}))

    assert measures[-1].name == "captions never seen in training"
    assert list(measures[-1].values) == ["25.0 %", "", ""]
