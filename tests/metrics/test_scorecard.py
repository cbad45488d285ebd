"""All metrics together: values, single images, bootstrap intervals, captions dealt out to other images."""

import numpy as np
import pytest

from captioncrafter.errors import DataError
from captioncrafter.metrics import resamples
from captioncrafter.metrics.cider import cider_d
from captioncrafter.metrics.references import References
from captioncrafter.metrics.resamples import Measured
from captioncrafter.metrics.scorecard import METRICS, Scorecard, averaged, cider_of, score, shuffled
from captioncrafter.metrics.tokenizer import tokenize

ANIMALS, PLACES = ("dog", "cat", "man", "woman", "bird", "horse"), ("park", "street", "house", "lake", "field")
CAPTIONS = {
    f"{animal}-{place}": [f"a {animal} in the {place}", f"the {animal} stands at a {place}", f"one {animal} outside"]
    for animal in ANIMALS
    for place in PLACES
}
PREDICTIONS = {
    # some equal to a reference, some part right, some of another image's animal, one empty
    image: ["a {} in the {}", "a small {} running", "a dog in the {1}", "{1} and {0}", ""][number % 4].format(
        *image.split("-")
    )
    for number, image in enumerate(CAPTIONS)
} | {"horse-field": ""}


@pytest.fixture(scope="module")
def references() -> References:
    return References(CAPTIONS)


@pytest.fixture(scope="module")
def card(references: References) -> Scorecard:
    return score(PREDICTIONS, references)


def drawn(seed: int) -> np.ndarray:
    """Which images a resample has; some twice, some not."""
    return np.random.default_rng(seed).integers(len(CAPTIONS), size=len(CAPTIONS))


def resampled(images: np.ndarray) -> Scorecard:
    """The resample scored from its captions, each drawn image under a name of its own."""
    names = list(CAPTIONS)
    return score(
        {str(place): PREDICTIONS[names[image]] for place, image in enumerate(images)},
        References({str(place): CAPTIONS[names[image]] for place, image in enumerate(images)}),
    )


def of_sums(card: Scorecard, metric: str, images: np.ndarray) -> float:
    counts = np.bincount(images, minlength=len(CAPTIONS)).astype(np.float64)[None]
    measured = card.metrics[metric]
    return float(measured.of_sums(counts @ measured.statistics, len(images))[0])


def test_the_seven_metrics_come_in_the_order_of_papers(card: Scorecard):
    assert tuple(card.metrics) == METRICS == ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


@pytest.mark.parametrize("metric", METRICS)
def test_the_sums_over_every_image_once_give_the_value(card: Scorecard, metric: str):
    assert of_sums(card, metric, np.arange(len(CAPTIONS))) == pytest.approx(card.value(metric), abs=1e-12)


@pytest.mark.parametrize("metric", ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"])
@pytest.mark.parametrize("seed", range(3))
def test_a_resamples_bleu_is_exactly_that_of_its_captions(card: Scorecard, metric: str, seed: int):
    assert of_sums(card, metric, drawn(seed)) == resampled(drawn(seed)).value(metric)


@pytest.mark.parametrize("metric", ["METEOR", "ROUGE-L"])
@pytest.mark.parametrize("seed", range(3))
def test_a_resamples_other_scores_are_those_of_its_captions(card: Scorecard, metric: str, seed: int):
    assert of_sums(card, metric, drawn(seed)) == pytest.approx(resampled(drawn(seed)).value(metric), abs=1e-12)


def test_a_resamples_cider_keeps_the_full_sets_document_frequencies(card: Scorecard, references: References):
    names = [list(CAPTIONS)[image] for image in drawn(0)]
    fixed = References({str(n): CAPTIONS[name] for n, name in enumerate(names)}, document_frequencies=references)

    expected = np.mean(cider_d(tokenize([PREDICTIONS[name] for name in names]), fixed))

    assert of_sums(card, "CIDEr", drawn(0)) == pytest.approx(expected, abs=1e-12)
    assert resampled(drawn(0)).value("CIDEr") != pytest.approx(expected, abs=1e-3)


def test_intervals_of_one_seed_repeat(card: Scorecard):
    assert card.intervals(resamples=300, seed=7) == card.intervals(resamples=300, seed=7)


def test_intervals_of_another_seed_differ(card: Scorecard):
    assert card.intervals(resamples=300, seed=7) != card.intervals(resamples=300, seed=8)


def test_an_interval_holds_the_value(card: Scorecard):
    for metric, (low, high) in card.intervals(resamples=300, seed=1).items():
        assert low < card.value(metric) < high


def test_intervals_are_the_same_however_many_resamples_are_drawn_at_a_time(
    card: Scorecard, monkeypatch: pytest.MonkeyPatch
):
    all_at_once = card.intervals(resamples=300, seed=7)

    monkeypatch.setattr(resamples, "_DRAWN_AT_A_TIME", 7 * len(CAPTIONS))

    for metric, interval in card.intervals(resamples=300, seed=7).items():
        assert interval == pytest.approx(all_at_once[metric], abs=1e-12)


def test_an_interval_is_the_middle_95_percent_of_the_resamples(card: Scorecard):
    even = np.full(len(CAPTIONS), 1 / len(CAPTIONS))
    counts = np.random.default_rng(3).multinomial(len(CAPTIONS), even, size=600)

    low, high = card.intervals(resamples=600, seed=3)["ROUGE-L"]

    means = counts @ card.metrics["ROUGE-L"].per_image / len(CAPTIONS)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=1e-12)


def test_an_interval_of_rouge_is_about_two_standard_errors_each_way(card: Scorecard):
    values = card.metrics["ROUGE-L"].per_image

    low, high = card.intervals(resamples=4000, seed=0)["ROUGE-L"]

    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(len(values)), rel=0.1)


@pytest.mark.parametrize("metric", ["BLEU-4", "ROUGE-L"])
def test_intervals_hold_the_true_value_about_95_times_in_100(card: Scorecard, metric: str):
    # The truth is the value on a large set of images; each of 400 experiments sees 80 of them.
    dice = np.random.default_rng(5)
    whole = card.metrics[metric]
    held = 0
    for _ in range(400):
        rows = dice.integers(len(CAPTIONS), size=80)
        seen = Measured(0.0, whole.per_image[rows], whole.statistics[rows], whole.of_sums)
        (drawn,) = resamples.bootstrap([{metric: seen}], resamples=200, seed=int(dice.integers(2**31)))
        low, high = resamples.middle(drawn[metric])
        held += low <= whole.value <= high

    assert 0.91 <= held / 400 <= 0.975


def test_a_single_image_has_an_interval_without_width():
    only = score({"1": "a dog runs"}, References({"1": ["a dog runs fast"]}))

    for metric, (low, high) in only.intervals(resamples=100, seed=0).items():
        assert low == high == pytest.approx(only.value(metric), abs=1e-12)


def test_json_has_value_and_interval(card: Scorecard):
    found = card.to_json(resamples=100, seed=5)

    low, high = card.intervals(resamples=100, seed=5)["METEOR"]
    assert found["METEOR"] == {"value": card.value("METEOR"), "low": low, "high": high}
    assert tuple(found) == METRICS


def test_each_image_has_a_row_with_its_scores(card: Scorecard):
    rows = card.rows()

    assert [row["image_id"] for row in rows] == list(CAPTIONS)
    assert rows[0]["METEOR"] == 1.0
    assert rows[-1] == {"image_id": "horse-field"} | dict.fromkeys(METRICS, 0.0)


def test_only_some_metrics_can_be_kept(card: Scorecard):
    assert tuple(card.only(["CIDEr", "BLEU-2"]).metrics) == ("BLEU-2", "CIDEr")


@pytest.fixture(scope="module")
def other(references: References) -> Scorecard:
    """Another model's captions of the same images."""
    return score(shuffled(PREDICTIONS, seed=3), references)


@pytest.mark.parametrize("metric", ["ROUGE-L", "CIDEr"])
def test_two_models_as_one_system_have_the_mean_of_their_means(card: Scorecard, other: Scorecard, metric: str):
    expected = (card.value(metric) + other.value(metric)) / 2

    assert averaged([card, other]).value(metric) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["BLEU-4", "METEOR"])
def test_two_models_as_one_system_have_the_corpus_score_of_all_their_captions(
    card: Scorecard, other: Scorecard, metric: str
):
    dealt = shuffled(PREDICTIONS, seed=3)
    both = score(
        {f"{image} {n}": text for n, some in enumerate((PREDICTIONS, dealt)) for image, text in some.items()},
        References({f"{image} {n}": texts for n in range(2) for image, texts in CAPTIONS.items()}),
    )

    assert averaged([card, other]).value(metric) == pytest.approx(both.value(metric), abs=1e-9)


def test_an_image_of_two_models_has_the_mean_of_their_scores(card: Scorecard, other: Scorecard):
    found = averaged([card, other]).metrics["METEOR"].per_image

    assert found == pytest.approx((card.metrics["METEOR"].per_image + other.metrics["METEOR"].per_image) / 2)


def test_predictions_in_another_order_score_the_same(card: Scorecard, references: References):
    turned = score(dict(reversed(PREDICTIONS.items())), references)

    assert turned.rows() == card.rows()


def test_cider_alone_is_the_scorecards(card: Scorecard, references: References):
    assert cider_of(PREDICTIONS, references) == card.value("CIDEr")


def test_an_image_without_a_prediction_is_refused_by_name(references: References):
    some = {image: caption for image, caption in PREDICTIONS.items() if image != "cat-lake"}

    with pytest.raises(DataError, match=r"1 image has no prediction \(cat-lake first\), 0 predictions have no ref"):
        score(some, references)


def test_a_prediction_without_references_is_refused(references: References):
    with pytest.raises(DataError, match="0 images have no prediction, 2 predictions have no reference"):
        cider_of(PREDICTIONS | {"x": "a dog", "y": "a cat"}, references)


@pytest.mark.parametrize("images", [2, 3, 7, 100])
@pytest.mark.parametrize("seed", range(5))
def test_no_image_keeps_its_caption_when_they_are_dealt_out(images: int, seed: int):
    predictions = {f"image {n}": f"caption {n}" for n in range(images)}

    dealt = shuffled(predictions, seed=seed)

    assert list(dealt) == list(predictions)
    assert sorted(dealt.values()) == sorted(predictions.values())
    assert all(dealt[image] != predictions[image] for image in predictions)


def test_one_seed_deals_the_same_captions_again():
    assert shuffled(PREDICTIONS, seed=4) == shuffled(PREDICTIONS, seed=4)


def test_another_seed_deals_them_otherwise():
    assert shuffled(PREDICTIONS, seed=4) != shuffled(PREDICTIONS, seed=5)


def test_a_single_image_keeps_its_caption():
    assert shuffled({"1": "a dog"}, seed=0) == {"1": "a dog"}
