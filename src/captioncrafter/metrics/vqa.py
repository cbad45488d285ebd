"""Answers to questions about images: exact match, and the accuracy of VQA v2.

VQA accuracy (Antol et al., 2015) lets ten people answer each question; an answer that three of them gave is right.
Texts are made equal as in the evaluation code of its authors (GT-Vision-Lab/VQA), quirks included, so that ten answers
a question give its number to the last digit.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from captioncrafter.errors import DataError
from captioncrafter.metrics.scorecard import Scorecard, mean_of, refuse_other_images

ANSWER_METRICS = ("exact match", "VQA accuracy")

HUMAN_ANSWERS = 10
"""As many people answered each question of VQA v2; fewer answers are a list of accepted ones."""

_AGREEING = 3
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS = 32
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_SHORTENED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def answers_scored(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> Scorecard:
    """Both metrics of `predictions`, which must be of exactly the rows of `answers`; raises `DataError` when not."""
    if not answers:
        raise DataError("no answers to score against.")
    refuse_other_images(predictions, tuple(answers))
    pairs = [(predictions[row], accepted) for row, accepted in answers.items()]
    metrics = {
        "exact match": mean_of(np.array([exact_match(*pair) for pair in pairs])),
        "VQA accuracy": mean_of(np.array([vqa_accuracy(*pair) for pair in pairs])),
    }
    return Scorecard(tuple(answers), metrics)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 when `prediction` is one of `answers` up to case and white space, else 0."""
    return float(_folded(prediction) in map(_folded, answers))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How right `prediction` is, from 0 to 1.

    With ten answers (or more): each is left out in turn, and the prediction is worth a third for each of the others
    that equals it, at most 1; the mean of these. With fewer, which are accepted answers and no votes: 1 when it equals
    one of them, else 0. Equal is what `normalise_answer` makes equal; only where ten people agree to the letter are
    their answer and the prediction compared as they stand, as in the official code.
    """
    given = _one_line(prediction)
    accepted = [_one_line(answer) for answer in answers]
    if len(accepted) < HUMAN_ANSWERS:
        return float(normalise_answer(given) in map(normalise_answer, accepted))
    if len(set(accepted)) > 1:
        given, accepted = normalise_answer(given), [normalise_answer(answer) for answer in accepted]
    equal = [answer == given for answer in accepted]
    worth = [min(1.0, (sum(equal) - left_out) / _AGREEING) for left_out in equal]
    return sum(worth) / len(worth)


def normalise_answer(text: str) -> str:
    """Lower case, number words as digits, no articles, no punctuation, apostrophes where contractions have lost them.

    A punctuation mark becomes a space, or nothing where one of its kind stands beside a space or a number holds a
    comma. A full stop goes, if no digit follows.
    """
    words = [_NUMBERS.get(word, word) for word in _without_punctuation(text).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    has_comma = _COMMA_IN_NUMBER.search(text) is not None
    instead = {mark: "" if has_comma or f"{mark} " in text or f" {mark}" in text else " " for mark in _PUNCTUATION}
    # The official code passes a flag where `re.sub` takes a count, so no more full stops than this go.
    return _FULL_STOP.sub("", text.translate(str.maketrans(instead)), count=_MOST_FULL_STOPS)


def _contractions() -> dict[str, str]:
    """Each contraction under what it is without one of its apostrophes; "somebody'd" is the official exception."""
    found = {"somebody'd": "somebodyd"}
    for whole in _SHORTENED.split():
        found |= {whole[:at] + whole[at + 1 :]: whole for at, letter in enumerate(whole) if letter == "'"}
    return found


_CONTRACTIONS = _contractions()


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
