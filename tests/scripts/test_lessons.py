"""What a step of telling reads and is to say."""

import pytest
import torch

from miniature.lessons import ASKED_PER_STEP, PHOTOS_PER_STEP, SCENES_PER_STEP, Lessons

from .conftest import CAPTIONS, OTHERS


def test_a_step_gives_the_same_lesson_again(lessons: Lessons):
    one, again = lessons.at(3), lessons.at(3)

    assert torch.equal(one.pixels, again.pixels)
    assert torch.equal(one.captions.targets, again.captions.targets)


def test_another_step_gives_another(lessons: Lessons):
    assert not torch.equal(lessons.at(3).pixels, lessons.at(4).pixels)


def test_photos_come_first_then_scenes_then_questions(lessons: Lessons):
    lesson = lessons.at(0)

    assert len(lesson.pixels) == PHOTOS_PER_STEP + SCENES_PER_STEP + ASKED_PER_STEP
    assert len(lesson.named) == PHOTOS_PER_STEP + SCENES_PER_STEP


def test_photos_count_one_and_so_do_scenes(lessons: Lessons):
    lesson = lessons.at(0)

    of_photos = sum(len(row) for row in lessons.encoded(CAPTIONS)), sum(len(row) for row in lessons.encoded(OTHERS))
    dogs = int(lesson.named[:PHOTOS_PER_STEP, lessons.words.index("dog")].sum())
    tokens = dogs * of_photos[0] + (PHOTOS_PER_STEP - dogs) * of_photos[1]
    assert lesson.weights[:tokens].sum().item() == pytest.approx(1.0)
    assert lesson.weights.sum().item() == pytest.approx(2.5)


def test_words_may_be_misheard_and_are_still_to_be_said(lessons: Lessons):
    heard, wrong = lessons.at(0).captions, lessons.at(0, misheard=0.5).captions

    changed = wrong.token_ids != heard.token_ids
    assert torch.equal(wrong.targets, heard.targets)
    assert not changed[heard.token_ids == 0].any()
    assert changed[heard.token_ids > 0].float().mean().item() == pytest.approx(0.5, abs=0.05)
