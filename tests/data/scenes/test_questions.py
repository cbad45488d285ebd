"""Questions about scenes: right, unambiguous, silent about held-out combinations, hard to guess."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from captioncrafter.data.scenes.questions import Question, ask
from captioncrafter.data.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_COLOURS,
    HELD_OUT_RELATIONS,
    SHAPES,
    Scene,
    Split,
    Thing,
    draw_scene,
)
from captioncrafter.recipe import Scenes

STAR, CIRCLES = Thing("star", "red", "large"), Thing("circle", "blue", "small", count=2)
PAIR = Scene((STAR, CIRCLES), "left of", "sky blue", layout=0)
CROSSES = Scene((Thing("cross", "pink", "small", count=3),), None, "mint", layout=0)
MOST = Scenes(task="questions", questions_per_scene=5).questions_per_scene


def asked(split: Split, count: int = 2000, questions: int = 5) -> Iterator[tuple[Scene, Question]]:
    for index in range(count):
        scene = draw_scene(7, split, index)
        for question in ask(scene, questions):
            yield scene, question


def every_question(things: Scene) -> dict[str, set[str]]:
    """What is asked about such things over many layouts, with the answers given."""
    found: dict[str, set[str]] = {}
    for layout in range(400):
        for question in ask(Scene(things.things, things.relation, things.background, layout), 5):
            found.setdefault(question.text, set()).update(question.answers)
    return found


def test_each_kind_of_question_about_a_pair_has_the_answer_that_its_picture_gives():
    assert {text: answers for text, answers in every_question(PAIR).items() if answers != {"no"}} == {
        "what colour is the star?": {"red"},
        "what colour are the circles?": {"blue"},
        "which shape is red?": {"star"},
        "which shape is blue?": {"circle"},
        "is the star small or large?": {"large"},
        "are the circles small or large?": {"small"},
        "what colour is the background?": {"sky blue"},
        "on which side of the circles is the star?": {"left"},
        "on which side of the star are the circles?": {"right"},
        "which shape is left of the circles?": {"star"},
        "which shape is right of the star?": {"circle"},
        "is the star red?": {"yes"},
        "are the circles blue?": {"yes"},
        "is the star left of the circles?": {"yes"},
        "are the circles right of the star?": {"yes"},
    }


def test_what_is_denied_of_a_pair_is_held_out_just_when_the_truth_is():
    # Held out: red and purple stars; a star above a circle or to its right. A circle comes in eight colours.
    denied = {text for text, answers in every_question(PAIR).items() if answers == {"no"}}

    assert {text for text in denied if " of " in text or "above" in text or "below" in text} == {
        "is the star below the circles?",
        "are the circles above the star?",
    }
    assert {text for text in denied if text.startswith("is the star ") and "circles" not in text} == {
        "is the star purple?"
    }
    assert len([text for text in denied if text.startswith("are the circles ") and "star" not in text]) == 7


def test_things_of_one_kind_are_counted():
    found = every_question(CROSSES)

    assert found["how many crosses are there?"] == {"three"}
    assert found["what colour are the crosses?"] == {"pink"}


def test_things_of_one_shape_are_told_apart_by_their_colour():
    stars = Scene((STAR, Thing("star", "green", "small")), "above", "grey", layout=0)

    found = every_question(stars)

    assert found["is the green star small or large?"] == {"small"}
    assert found["on which side of the green star is the red star?"] == {"above"}
    assert not [text for text in found if "the star" in text]
    assert {text for text in found if text.startswith("which")} == {"which shape is red?", "which shape is green?"}


def test_a_shape_is_never_asked_for_by_a_colour_that_both_have():
    found = every_question(Scene((STAR, Thing("ring", "red", "small")), "above", "grey", layout=0))

    assert "which shape is red?" not in found


def test_a_prompt_is_in_blip_2s_format():
    assert Question("count", "how many stars are there?", ("two",)).prompt == (
        "Question: how many stars are there? Answer:"
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_as_many_questions_as_a_recipe_may_want_fit_every_scene_each_of_another_kind(split: Split):
    for index in range(2000):
        assert len({question.kind for question in ask(draw_scene(7, split, index), MOST)}) == MOST


def test_the_same_scene_is_asked_the_same():
    assert list(asked("train", 50)) == list(asked("train", 50))


def test_no_training_question_names_a_held_out_colour_of_a_shape():
    forbidden = {f"{colour} {shape}" for shape, colour in HELD_OUT_COLOURS}
    forbidden |= {f"{shape} {colour}" for shape, colour in HELD_OUT_COLOURS}
    for _, question in asked("train"):
        assert not set(map(" ".join, pairwise(singular(question.text)))) & forbidden


def test_no_training_question_asks_for_a_held_out_relation():
    asked_for = {relation for _, question in asked("train") if (relation := relation_in(question)) is not None}

    assert len(asked_for) > 90
    assert not asked_for & HELD_OUT_RELATIONS


def test_questions_to_be_scored_ask_for_held_out_relations_and_deny_some():
    answers = {
        (relation, question.answers[0])
        for _, question in asked("test", 3000)
        if (relation := relation_in(question)) in HELD_OUT_RELATIONS
    }

    assert {relation for relation, answer in answers if answer == "yes"} == HELD_OUT_RELATIONS
    assert {relation for relation, answer in answers if answer == "no"} == HELD_OUT_RELATIONS


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("kind", ["colour-yes-no", "relation-yes-no"])
def test_yes_and_no_are_as_likely(split: Split, kind: str):
    answers = Counter(question.answers[0] for _, question in asked(split) if question.kind == kind)

    assert answers["yes"] / answers.total() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("colour", COLOURS),
        ("shape", SHAPES),
        ("neighbour", SHAPES),
        ("count", ("one", "two", "three", "four")),
        ("size", ("small", "large")),
        ("background", BACKGROUNDS),
        ("side", ("left", "right", "above", "below")),
    ],
)
def test_no_answer_is_much_likelier_than_the_others(kind: str, answers: tuple[str, ...]):
    found = Counter(question.answers[0] for _, question in asked("train") if question.kind == kind)

    assert set(found) == set(answers)
    assert max(found.values()) < 1.4 * found.total() / len(answers)


def test_who_knows_the_training_answers_by_heart_and_does_not_look_is_mostly_wrong():
    by_text: dict[str, Counter[str]] = {}
    for _, question in asked("train", 4000, questions=4):
        by_text.setdefault(question.text, Counter())[question.answers[0]] += 1

    right = [
        question.answers[0] == max(known, key=known.__getitem__) if (known := by_text.get(question.text)) else False
        for _, question in asked("test", 1000, questions=4)
    ]

    assert sum(right) / len(right) < 0.3


def test_the_miniature_can_read_every_question_and_write_every_answer():
    from tokenizers import Tokenizer

    import captioncrafter

    file = Path(captioncrafter.__file__).parent / "assets" / "miniature" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    texts = {text for _, question in asked("test") for text in (question.prompt, *question.answers)}

    assert "<unk>" not in {token for text in texts for token in tokenizer.encode(text).tokens}
    assert {tokenizer.decode(tokenizer.encode(text).ids) for text in texts} == texts


def singular(text: str) -> list[str]:
    words = [word for word in text.rstrip("?").split() if word not in ("small", "or", "large")]
    return ["cross" if word == "crosses" else word if word == "cross" else word.removesuffix("s") for word in words]


def relation_in(question: Question) -> tuple[str, str, str] | None:
    """Shape, relation, shape as a yes-or-no question has them, the second half of a relation turned round."""
    if question.kind != "relation-yes-no":
        return None
    words = [word for word in singular(question.text) if word in (*SHAPES, "left", "right", "above", "below")]
    one, word, other = words
    return {
        "left": (one, "left of", other),
        "right": (other, "left of", one),
        "above": (one, "above", other),
        "below": (other, "above", one),
    }[word]
