"""Comparison of run folders: their references, their bases, several seeds of one recipe."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from captioncrafter.errors import DataError, InputError
from captioncrafter.stages.compare import compare
from compared import FAST, VALIDATION, pictures, write_predictions, write_run, write_seeds
from tiny import captions_of_picture, write_tiny_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and four validation images."""
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "pictures", train=6, validation=4)


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


def test_cider_is_weighed_as_it_was_for_the_runs(tmp_path: Path, dataset: Path):
    corpus = {"scorer": {"document_frequencies": str(dataset)}}
    paths = [write_run(tmp_path / name, dataset, pictures(f"a {name}"), **corpus) for name in ("dog", "cat")]

    found = compare(paths, FAST)

    assert found["scorer"]["document_frequencies"] == str(dataset)
    assert found["scorer"]["document_frequencies_images"] == 6
    stated = compare(paths, FAST.model_copy(update={"document_frequencies": str(dataset)}), references=dataset)
    assert found["systems"]["cat"]["metrics"] == stated["systems"]["cat"]["metrics"]


def test_runs_whose_cider_was_weighed_differently_are_weighed_alike_and_that_is_said(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
):
    first = write_run(tmp_path / "first", dataset, pictures("a dog"))
    second = write_run(tmp_path / "second", dataset, pictures("a cat"), scorer={"document_frequencies": str(dataset)})

    found = compare([first, second], FAST)

    assert found["scorer"]["document_frequencies"] == "evaluated references"
    assert "weighed by the document frequencies of different captions" in capsys.readouterr().err


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
