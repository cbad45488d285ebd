"""METEOR, worked by hand and as the jar combines it."""

from pathlib import Path

import numpy as np
import pytest

from captioncrafter.errors import ScorerError
from captioncrafter.metrics.java import CaptionScorer
from captioncrafter.metrics.meteor import meteor, meteor_of_sums, summable
from captioncrafter.metrics.references import References
from fake_java import write_fake_java

PAIRS = {
    "equal": ("two dogs run", ["two dogs run", "a cat"]),
    "stems": ("two dog running", ["two dogs run"]),
    "synonyms": ("a big automobile", ["a large car"]),
    "paraphrase": ("a man in the middle of the street", ["a man amid the street"]),
    "order": ("fast run dogs two", ["two dogs run fast"]),
    "function words": ("the of a in", ["the a of in on"]),
    "nothing": ("red", ["blue"]),
    "empty": ("", ["a dog"]),
    "one word": ("dog", ["dog"]),
    "long": ("a brown dog is running along the beach beside the sea", ["the dog runs on the sand by the ocean"]),
}


def meteor_of(prediction: str, *references: str) -> float:
    return meteor([prediction], References({"image": references})).corpus


@pytest.fixture(scope="module")
def statistics() -> np.ndarray:
    references = References({name: texts for name, (_, texts) in PAIRS.items()})
    return meteor([prediction for prediction, _ in PAIRS.values()], references).statistics


def test_an_equal_caption_scores_one():
    assert meteor_of("two dogs run", "two dogs run") == 1


def test_one_content_word_of_two():
    # P = 1, R = 1/2; one chunk over (1 + 1) / 2 matched words: F = 1 / (.15/1 + .85/.5), penalty .6
    assert meteor_of("dog", "dog cat") == pytest.approx(0.4 / (0.15 + 0.85 / 0.5), abs=1e-12)


def test_a_function_word_weighs_a_third_of_a_content_word():
    # "the" is missing: R = .75 / (.75 + .25), P = 1, one chunk of one word
    assert meteor_of("dog", "the dog") == pytest.approx(0.4 / (0.15 + 0.85 / 0.75), abs=1e-12)


def test_a_stem_counts_six_tenths():
    # P = R = (1 + .6) / 2; every word is in one chunk, which costs nothing
    assert meteor_of("red dogs", "red dog") == pytest.approx(0.8, abs=1e-12)


def test_a_synonym_counts_eight_tenths():
    assert meteor_of("red automobile", "red car") == pytest.approx(0.9, abs=1e-12)


def test_words_in_another_order_pay_for_their_chunks():
    # P = R = 1; three chunks of three words cost .6, two of three .6 · (2/3)^.2
    assert meteor_of("run dogs red", "red dogs run") == pytest.approx(0.4, abs=1e-12)
    assert meteor_of("run red dogs", "red dogs run") == pytest.approx(1 - 0.6 * (2 / 3) ** 0.2, abs=1e-12)


def test_the_best_of_the_references_counts():
    assert meteor_of("two dogs run", "a cat", "two dogs run") == 1


def test_bars_in_a_prediction_are_no_reference_marks():
    assert meteor_of("two ||| dogs run", "two dogs run") == 1


def test_each_images_score_is_that_of_its_own_statistics(statistics: np.ndarray):
    references = References({name: texts for name, (_, texts) in PAIRS.items()})
    found = meteor([prediction for prediction, _ in PAIRS.values()], references)

    assert meteor_of_sums(summable(statistics)) == pytest.approx(found.per_image, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_score_of_a_resample_is_the_jars(statistics: np.ndarray, seed: int):
    drawn = np.random.default_rng(seed).integers(len(PAIRS), size=len(PAIRS))
    pairs = [list(PAIRS.values())[one] for one in drawn]

    by_the_jar = meteor(
        [prediction for prediction, _ in pairs], References({str(n): texts for n, (_, texts) in enumerate(pairs)})
    ).corpus

    assert meteor_of_sums(summable(statistics)[drawn].sum(0, keepdims=True))[0] == pytest.approx(by_the_jar, abs=1e-12)


def test_an_equal_caption_brings_no_chunk_into_a_sum(statistics: np.ndarray):
    chunks = dict(zip(PAIRS, zip(statistics[:, 20], summable(statistics)[:, 20], strict=True), strict=True))

    assert chunks["equal"] == (1, 0)
    assert chunks["order"][0] == chunks["order"][1] > 1


def test_summing_leaves_the_statistics_untouched(statistics: np.ndarray):
    before = statistics.copy()

    summable(statistics)

    np.testing.assert_array_equal(statistics, before)


def test_no_statistics_at_all_score_zero():
    assert meteor_of_sums(np.zeros((1, 23))).tolist() == [0]


def test_an_answer_of_the_wrong_length_is_an_error(tmp_path: Path):
    fake = CaptionScorer(write_fake_java(tmp_path, "read request; printf '=1\\n=0.5\\n'; exec sleep 60"))

    with pytest.raises(ScorerError, match="METEOR answered 1 line for 1 caption"):
        meteor(["a dog"], References({"1": ["a dog"]}), fake)
    fake.close()
