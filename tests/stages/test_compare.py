"""Comparison of files, runs and seeds: what differs is found, what does not compare is refused by name."""

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from captioncrafter.data.splits import load_splits
from captioncrafter.errors import DataError, InputError
from captioncrafter.metrics.scorecard import METRICS
from captioncrafter.recipe import Data, Evaluation
from captioncrafter.stages.compare import compare
from tiny import captions_of_picture, tiny_recipe, write_tiny_dataset

IMAGES = 60
ANIMALS, PLACES = ("dog", "cat", "man", "woman", "bird", "horse"), ("park", "street", "house", "lake", "field")
FAST = Evaluation(resamples=300)


def caption(number: int) -> str:
    return f"a {ANIMALS[number % 6]} in the {PLACES[number % 5]} number {number}"


def sampled(seed: int, share_right: float = 0.6) -> dict[str, str]:
    """Captions of a system that is right on this share of the images."""
    dice = random.Random(seed)
    return {str(n): caption(n if dice.random() < share_right else dice.randrange(IMAGES)) for n in range(IMAGES)}


def write_predictions(path: Path, captions: Mapping[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"image_id": one, "caption": text}) + "\n" for one, text in captions.items()))
    return path


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("references") / "references.jsonl"
    rows = [{"image_id": str(n), "captions": [caption(n), f"{caption(n)} outside"]} for n in range(IMAGES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and four validation images."""
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "pictures", train=6, validation=4)


VALIDATION = range(6, 10)


def pictures(*captions: str) -> dict[str, str]:
    """These captions, in turn, for the validation images."""
    return {f"picture-{number}.png": captions[number % len(captions)] for number in VALIDATION}


def write_run(folder: Path, dataset: Path, captions: Mapping[str, str], **scores: Any) -> Path:
    """A run folder without a model, evaluated on the validation images."""
    write_predictions(folder / "predictions.jsonl", captions)
    (folder / "recipe.json").write_text(json.dumps(tiny_recipe(Path("a/checkpoint"), dataset).model_dump(mode="json")))
    data = load_splits(Data(path=str(dataset)))["validation"].fingerprint()
    (folder / "scores.json").write_text(json.dumps({"split": "validation", "data": data} | scores))
    return folder


def write_seeds(folder: Path, dataset: Path, captions: Sequence[Mapping[str, str]]) -> Path:
    for seed, some in enumerate(captions):
        write_run(folder / f"seed-{seed}", dataset, some)
    (folder / "seeds.json").write_text(json.dumps({"runs": {str(seed): {} for seed in range(len(captions))}}))
    return folder


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
        r"part\.jsonl: 2 images have no prediction \(7, 9\), 1 predictions have no reference \(x\)\n"
        "--allow-partial compares on the 58 images"
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
    assert "compared on the 50 images that all share only" in capsys.readouterr().err


def test_systems_that_share_no_image_are_refused_even_as_a_part(tmp_path: Path, references: Path):
    whole = write_predictions(tmp_path / "whole.jsonl", sampled(1))
    other = write_predictions(tmp_path / "other.jsonl", {"x": "a dog", "y": "a cat"})

    with pytest.raises(DataError, match=r"all share 0:(.|\n)*x, y in .*other\.jsonl"):
        compare([whole, other], FAST, references=references, allow_partial=True)


def test_an_image_with_two_captions_is_named(tmp_path: Path, references: Path):
    whole = write_predictions(tmp_path / "whole.jsonl", sampled(1))
    double = write_predictions(tmp_path / "double.jsonl", sampled(2))
    double.write_text(double.read_text() + json.dumps({"image_id": "5", "caption": "again"}) + "\n")

    with pytest.raises(DataError, match=r"double\.jsonl: 1 images have two predictions or more.*5"):
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


def test_runs_bring_the_references_of_the_split_they_were_evaluated_on(tmp_path: Path, dataset: Path):
    first = write_run(tmp_path / "first", dataset, pictures("a dog"))
    right = {f"picture-{number}.png": captions_of_picture(number)[0] for number in VALIDATION}
    second = write_run(tmp_path / "second", dataset, right)

    found = compare([first, second], FAST)

    assert (found["images"], found["split"], found["references_from"]) == (4, "validation", str(dataset))
    assert found["systems"]["second"]["metrics"]["METEOR"]["value"] > 0.99


def test_a_file_is_compared_with_a_run_over_the_runs_images(tmp_path: Path, dataset: Path):
    run = write_run(tmp_path / "run", dataset, pictures("a dog"))
    file = write_predictions(tmp_path / "others.jsonl", pictures("a cat"))

    assert list(compare([file, run], FAST)["systems"]) == ["others", "run"]


def test_a_run_is_compared_with_its_base(tmp_path: Path, dataset: Path):
    run = write_run(tmp_path / "run", dataset, pictures("a dog"))
    write_run(run / "base", dataset, pictures("a cat"))
    (run / "base" / "recipe.json").unlink()

    assert list(compare([run / "base", run], FAST)["differences"]) == ["run"]


def test_answers_to_questions_are_compared_by_their_metrics_too(tmp_path: Path):
    import datasets

    folder = write_tiny_dataset(tmp_path / "data")
    splits: Any = datasets.load_from_disk(folder)
    asked = {name: rows.add_column("prompt", ["what is it"] * len(rows)) for name, rows in splits.items()}
    datasets.DatasetDict(asked).save_to_disk(tmp_path / "asked")
    paths = [write_run(tmp_path / name, tmp_path / "asked", pictures(f"a {name}")) for name in ("dog", "cat")]

    assert list(compare(paths, FAST)["differences"]["cat"])[-2:] == ["exact match", "VQA accuracy"]


def test_runs_over_different_data_of_the_same_names_are_refused(tmp_path: Path, dataset: Path):
    first = write_run(tmp_path / "first", dataset, pictures("a dog"))
    second = write_run(tmp_path / "second", dataset, pictures("a cat"), data="f00")

    with pytest.raises(DataError, match="validation splits of different data"):
        compare([first, second], FAST)


def test_runs_over_different_data_compare_by_given_references_and_that_is_said(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
):
    first = write_run(tmp_path / "first", dataset, pictures("a dog"))
    second = write_run(tmp_path / "second", dataset, pictures("a cat"), data="f00")

    found = compare([first, second], FAST, references=dataset, split="validation")

    assert found["images"] == 4
    assert "evaluated on different data; they are compared by image ids alone" in capsys.readouterr().err


def test_runs_over_different_splits_are_refused(tmp_path: Path, dataset: Path):
    first = write_run(tmp_path / "first", dataset, pictures("a dog"))
    second = write_run(tmp_path / "second", dataset, pictures("a cat"), split="test")

    with pytest.raises(DataError, match=r"first was evaluated on validation, .*second on test"):
        compare([first, second], FAST)


def test_another_split_than_the_runs_is_refused(tmp_path: Path, dataset: Path):
    paths = [write_run(tmp_path / name, dataset, pictures("a dog")) for name in ("one", "two")]

    with pytest.raises(InputError, match=r"--split test: .*one was evaluated on validation"):
        compare(paths, FAST, split="test")


def test_runs_whose_data_changed_are_refused(tmp_path: Path, dataset: Path):
    paths = [write_run(tmp_path / name, dataset, pictures("a dog"), data="old") for name in ("one", "two")]

    with pytest.raises(DataError, match="is no longer what was evaluated"):
        compare(paths, FAST)


def test_a_run_that_was_not_evaluated_is_refused(tmp_path: Path, dataset: Path):
    paths = [write_run(tmp_path / name, dataset, pictures("a dog")) for name in ("one", "two")]
    (paths[1] / "predictions.jsonl").unlink()

    with pytest.raises(DataError, match=rf"nothing to compare yet. `captioncrafter evaluate --run {paths[1]}`"):
        compare(paths, FAST)


def test_a_folder_that_holds_no_captions_is_refused(tmp_path: Path, references: Path):
    file = write_predictions(tmp_path / "file.jsonl", sampled(1))

    with pytest.raises(DataError, match=r"neither a run folder .* nor one of several seeds"):
        compare([file, tmp_path], FAST, references=references)


def test_several_seeds_are_one_system_whose_deviation_stands_apart(tmp_path: Path, dataset: Path):
    baseline = write_run(tmp_path / "baseline", dataset, pictures("a dog"))
    seeds = write_seeds(tmp_path / "seeds", dataset, [pictures("a cat"), pictures("a red dog"), pictures("two", "man")])

    found = compare([baseline, seeds], FAST)

    system = found["systems"]["seeds"]
    over_seeds = system["training_seeds"]["CIDEr"]
    single = [compare([baseline, seeds / f"seed-{seed}"], FAST)["systems"][f"seed-{seed}"] for seed in range(3)]
    values = [one["metrics"]["CIDEr"]["value"] for one in single]
    assert list(over_seeds["runs"].values()) == values
    assert (over_seeds["mean"], over_seeds["sd"]) == (statistics.mean(values), statistics.stdev(values))
    assert system["metrics"]["CIDEr"]["value"] == pytest.approx(statistics.mean(values))
    assert "training_seeds" not in found["systems"]["baseline"]


def test_seeds_that_say_the_same_are_as_one_model_to_the_tests(tmp_path: Path, dataset: Path):
    baseline = write_run(tmp_path / "baseline", dataset, pictures("a dog", "a cat", "a red man"))
    captions = pictures("a red dog", "two", "a cat in the park")
    seeds = write_seeds(tmp_path / "seeds", dataset, [captions, captions])

    several = compare([baseline, seeds], FAST)["differences"]["seeds"]
    single = compare([baseline, seeds / "seed-0"], FAST)["differences"]["seed-0"]

    assert several == {metric: pytest.approx(one) for metric, one in single.items()}


def test_a_seed_that_was_not_evaluated_is_named(tmp_path: Path, dataset: Path):
    baseline = write_run(tmp_path / "baseline", dataset, pictures("a dog"))
    seeds = write_seeds(tmp_path / "seeds", dataset, [pictures("a cat"), pictures("a man")])
    (seeds / "seed-1" / "scores.json").unlink()

    with pytest.raises(DataError, match=rf"evaluate --run {seeds / 'seed-1'}"):
        compare([baseline, seeds], FAST)
