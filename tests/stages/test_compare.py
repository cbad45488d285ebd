"""Comparison of predictions files: what differs is found, what does not compare is refused by name."""

import json
import random
from pathlib import Path

import pytest

from captioncrafter.errors import DataError, InputError
from captioncrafter.metrics.scorecard import METRICS
from captioncrafter.recipe import Evaluation
from captioncrafter.stages.compare import compare
from compared import FAST, write_predictions

IMAGES = 60
ANIMALS, PLACES = ("dog", "cat", "man", "woman", "bird", "horse"), ("park", "street", "house", "lake", "field")


def caption(number: int) -> str:
    return f"a {ANIMALS[number % 6]} in the {PLACES[number % 5]} number {number}"


def sampled(seed: int, share_right: float = 0.6) -> dict[str, str]:
    """Captions of a system that is right on this share of the images."""
    dice = random.Random(seed)
    return {str(n): caption(n if dice.random() < share_right else dice.randrange(IMAGES)) for n in range(IMAGES)}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("references") / "references.jsonl"
    rows = [{"image_id": str(n), "captions": [caption(n), f"{caption(n)} outside"]} for n in range(IMAGES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_of_known_difference_are_told_apart_in_every_metric(tmp_path: Path, references: Path):
    worse = write_predictions(tmp_path / "worse.jsonl", sampled(1, 0.3))
    better = write_predictions(tmp_path / "better.jsonl", sampled(2, 0.9))

    found = compare([worse, better], FAST, references=references)

    assert tuple(found["differences"]["better"]) == METRICS
    for one in found["differences"]["better"].values():
        assert one["p_holm"] < 0.05
        assert 0 < one["low"] < one["value"] < one["high"]
        assert one["wins"] > one["losses"]


def test_two_samples_of_one_system_are_not(tmp_path: Path, references: Path):
    paths = [write_predictions(tmp_path / f"{seed}.jsonl", sampled(seed)) for seed in (1, 2)]

    found = compare(paths, FAST, references=references)

    for one in found["differences"]["2"].values():
        assert one["p_holm"] > 0.05
        assert one["low"] < 0 < one["high"]


def test_files_of_the_same_captions_have_p_values_of_1(tmp_path: Path, references: Path):
    paths = [write_predictions(tmp_path / name / "captions.jsonl", sampled(1)) for name in ("one", "two")]

    found = compare(paths, FAST, references=references)

    assert {one["p"] for one in found["differences"]["two/captions"].values()} == {1.0}


def test_every_system_is_held_against_the_first_and_all_tests_are_one_family(tmp_path: Path, references: Path):
    paths = [write_predictions(tmp_path / f"{name}.jsonl", sampled(seed)) for seed, name in enumerate("abc")]

    found = compare(paths, FAST, references=references)

    assert found["baseline"] == "a"
    assert list(found["systems"]) == ["a", "b", "c"]
    assert list(found["differences"]) == ["b", "c"]
    assert found["correction"] == {"method": "Holm", "tests": 2 * len(METRICS)}


def test_values_and_intervals_are_those_of_evaluate(tmp_path: Path, references: Path):
    from captioncrafter.stages.evaluate import evaluate_files

    paths = [write_predictions(tmp_path / f"{seed}.jsonl", sampled(seed)) for seed in (1, 2)]

    found = compare(paths, FAST, references=references)

    expected = evaluate_files(paths[1], references, options=FAST).scores["metrics"]
    assert found["systems"]["2"]["metrics"] == expected


def test_only_the_metrics_asked_for_are_tested(tmp_path: Path, references: Path):
    paths = [write_predictions(tmp_path / f"{seed}.jsonl", sampled(seed)) for seed in (1, 2)]

    found = compare(paths, FAST, references=references, metrics=["cider", "BLEU-4"])

    assert list(found["differences"]["2"]) == ["BLEU-4", "CIDEr"]
    assert found["correction"]["tests"] == 2


def test_an_unknown_metric_is_refused_with_the_nearest(tmp_path: Path, references: Path):
    paths = [write_predictions(tmp_path / f"{seed}.jsonl", sampled(seed)) for seed in (1, 2)]

    with pytest.raises(InputError, match=r'no metric "BLEU4" here\. Did you mean "BLEU-4"'):
        compare(paths, FAST, references=references, metrics=["BLEU4"])


def test_the_result_says_how_it_was_taken(tmp_path: Path, references: Path):
    paths = [write_predictions(tmp_path / f"{seed}.jsonl", sampled(seed)) for seed in (1, 2)]

    found = compare(paths, FAST, references=references, metrics=["CIDEr"], out=tmp_path / "found.json")

    assert (found["images"], found["references_from"]) == (IMAGES, str(references))
    assert found["scorer"]["METEOR"] == "1.5"
    assert found["scorer"]["document_frequencies"] == "evaluated references"
    assert (found["scorer"]["resamples"], found["scorer"]["seed"]) == (300, 0)
    assert json.loads((tmp_path / "found.json").read_text()) == found


def test_too_few_resamples_for_so_many_tests_are_warned_of(
    tmp_path: Path, references: Path, capsys: pytest.CaptureFixture[str]
):
    paths = [write_predictions(tmp_path / f"{seed}.jsonl", sampled(seed)) for seed in (1, 2)]

    compare(paths, Evaluation(resamples=100), references=references)

    assert "no p-value of 7 tests can be below 0.05" in capsys.readouterr().err


def test_images_that_differ_are_named_for_each_file(tmp_path: Path, references: Path):
    whole = write_predictions(tmp_path / "whole.jsonl", sampled(1))
    some = {image: text for image, text in sampled(2).items() if image not in ("7", "9")}
    part = write_predictions(tmp_path / "part.jsonl", some | {"x": "a dog"})

    expected = (
        r"part\.jsonl: 2 images have no prediction \(7, 9\), 1 prediction has no reference \(x\)\n"
        "A part compares with no published scores; --allow-partial takes the 58 images"
    )
    with pytest.raises(DataError, match=expected):
        compare([whole, part], FAST, references=references)


def test_a_part_is_compared_when_allowed_and_the_result_says_so(
    tmp_path: Path, references: Path, capsys: pytest.CaptureFixture[str]
):
    whole = write_predictions(tmp_path / "whole.jsonl", sampled(1))
    part = write_predictions(tmp_path / "part.jsonl", dict(list(sampled(2).items())[10:]))

    found = compare([whole, part], FAST, references=references, metrics=["CIDEr"], allow_partial=True)

    assert found["images"] == IMAGES - 10
    assert found["partial"] == {str(part): {"images_without_prediction": 10, "predictions_without_reference": 0}}
    assert "only the 50 images that all share are taken" in capsys.readouterr().err


def test_systems_that_share_no_image_are_refused_even_as_a_part(tmp_path: Path, references: Path):
    whole = write_predictions(tmp_path / "whole.jsonl", sampled(1))
    other = write_predictions(tmp_path / "other.jsonl", {"x": "a dog", "y": "a cat"})

    with pytest.raises(
        DataError, match=r"2 images that all share are needed, and there are 0:(.|\n)*x, y in .*other\.jsonl"
    ):
        compare([whole, other], FAST, references=references, allow_partial=True)


def test_an_image_with_two_captions_is_named(tmp_path: Path, references: Path):
    whole = write_predictions(tmp_path / "whole.jsonl", sampled(1))
    double = write_predictions(tmp_path / "double.jsonl", sampled(2))
    double.write_text(double.read_text() + json.dumps({"image_id": "5", "caption": "again"}) + "\n")

    with pytest.raises(DataError, match=r"double\.jsonl: 1 image has two predictions or more.*5"):
        compare([whole, double], FAST, references=references)


@pytest.mark.parametrize(("paths", "said"), [(["a"], "compares with nothing"), (["a", "./a"], "given twice")])
def test_one_system_alone_is_refused(
    paths: list[str], said: str, tmp_path: Path, references: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    write_predictions(tmp_path / "a", sampled(1))

    with pytest.raises(InputError, match=said):
        compare([Path(path) for path in paths], FAST, references=references)


def test_files_without_references_are_refused(tmp_path: Path):
    paths = [write_predictions(tmp_path / f"{seed}.jsonl", sampled(seed)) for seed in (1, 2)]

    with pytest.raises(InputError, match="give them with --references"):
        compare(paths, FAST)


def test_a_folder_that_holds_no_captions_is_refused(tmp_path: Path, references: Path):
    file = write_predictions(tmp_path / "file.jsonl", sampled(1))

    with pytest.raises(DataError, match=r"neither a run folder .* nor one of several seeds"):
        compare([file, tmp_path], FAST, references=references)


def test_a_folder_as_out_is_refused(tmp_path: Path, references: Path):
    paths = [write_predictions(tmp_path / f"{seed}.jsonl", sampled(seed)) for seed in (1, 2)]

    with pytest.raises(InputError, match="a folder, and --out takes the file to write"):
        compare(paths, FAST, references=references, out=tmp_path)
