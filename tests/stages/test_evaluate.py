"""Evaluation of files and of runs."""

import hashlib
import json
from pathlib import Path

import pytest

import captioncrafter
from captioncrafter.errors import DataError, InputError
from captioncrafter.generation.captioner import Captioner
from captioncrafter.recipe import Evaluation
from captioncrafter.stages.evaluate import evaluate_files, evaluate_run
from captioncrafter.stages.train import train
from clip import write_tiny_clip
from fake_java import write_fake_java
from tiny import captions_of_picture, tiny_recipe, write_tiny_dataset

METRICS = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]


@pytest.fixture(scope="module")
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; its data has six training, four validation and two test images."""
    folder = tmp_path_factory.mktemp("run")
    dataset = write_tiny_dataset(folder / "data", test=2)
    train(tiny_recipe(tiny_checkpoint, dataset, features={"folder": str(folder / "cache")}), folder / "run")
    return folder / "run"


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def files_of(tmp_path: Path, predicted: range, described: range) -> tuple[Path, Path]:
    predictions = [{"image_id": str(n), "caption": captions_of_picture(n)[0]} for n in predicted]
    references = [{"image_id": str(n), "captions": captions_of_picture(n)[1:]} for n in described]
    return (
        write_lines(tmp_path / "predictions.jsonl", predictions),
        write_lines(tmp_path / "references.jsonl", references),
    )


def test_a_predictions_file_gets_all_seven_metrics_with_intervals(tmp_path: Path):
    predictions, references = files_of(tmp_path, range(4), range(4))

    scores = evaluate_files(predictions, references).scores

    assert list(scores["metrics"]) == METRICS
    assert all(one["low"] <= one["value"] <= one["high"] for one in scores["metrics"].values())


def test_scores_say_how_they_were_taken(tmp_path: Path):
    predictions, references = files_of(tmp_path, range(4), range(4))

    scores = evaluate_files(predictions, references).scores

    assert scores["images"] == 4
    assert scores["references_per_image"] == 4
    assert scores["scorer"]["METEOR"] == "1.5"
    assert scores["scorer"]["document_frequencies"] == "evaluated references"
    assert scores["scorer"]["captioncrafter"] == captioncrafter.__version__
    assert scores["references"] == 16


def test_references_are_told_by_their_content(tmp_path: Path):
    one = evaluate_files(*files_of(tmp_path, range(4), range(4))).scores
    same = evaluate_files(*files_of(tmp_path, range(4), range(4))).scores
    other = evaluate_files(*files_of(tmp_path, range(3), range(3))).scores

    assert one["references_hash"] == same["references_hash"] != other["references_hash"]


def test_document_frequencies_of_another_corpus_weigh_cider_alone(tmp_path: Path):
    files = files_of(tmp_path, range(4), range(4))
    corpus = write_lines(
        tmp_path / "corpus.jsonl", [{"image_id": n, "captions": captions_of_picture(n)} for n in range(9)]
    )

    own = evaluate_files(*files).scores
    named = evaluate_files(*files, options=Evaluation(document_frequencies=str(corpus))).scores

    different = {metric for metric in METRICS if own["metrics"][metric] != named["metrics"][metric]}
    assert different == {"CIDEr"}
    assert named["scorer"]["document_frequencies"] == str(corpus)


def test_novelty_and_images_seen_are_told_where_the_training_captions_are_given(tmp_path: Path):
    files = files_of(tmp_path, range(4), range(4))
    trained_on = write_lines(
        tmp_path / "train.jsonl", [{"image_id": n, "captions": captions_of_picture(n)} for n in (3, 4)]
    )

    without, given = evaluate_files(*files).scores, evaluate_files(*files, trained_on=trained_on).scores

    assert "novel_captions" not in without["diversity"] and "seen_in_training" not in without
    assert given["diversity"]["novel_captions"] == 3 / 4
    assert given["seen_in_training"]["image_ids"] == ["3"]


def test_a_dataset_tells_the_split_it_was_read_from(tmp_path: Path):
    dataset = write_tiny_dataset(tmp_path / "data", train=1, validation=2)
    predictions = write_lines(
        tmp_path / "p.jsonl", [{"image_id": f"picture-{n}.png", "caption": "a dog"} for n in (1, 2)]
    )

    assert evaluate_files(predictions, dataset).scores["split"] == "validation"


def test_captions_that_a_ledger_knows_bring_their_origin(tmp_path: Path):
    predictions, references = files_of(tmp_path, range(4), range(4))
    origin = {"base": "miniature", "decoding": {"num_beams": 3}}
    (tmp_path / "predictions.jsonl.meta.json").write_text(json.dumps({"origin": origin, "images": {}}))

    assert evaluate_files(predictions, references).scores["origin"] == origin


def test_clip_score_stands_beside_the_others_with_intervals_when_asked_for(tmp_path: Path, photos: Path):
    files = files_of(tmp_path, range(3), range(3))
    clip = write_tiny_clip(tmp_path / "clip")

    found = evaluate_files(*files, images=photos, options=Evaluation(clip_model=str(clip)))

    assert list(found.scores["metrics"]) == [*METRICS, "CLIPScore", "RefCLIPScore"]
    assert found.scores["scorer"]["CLIPScore"]["model"] == str(clip)
    assert set(found.image_scores[0]) == {"image_id", *METRICS, "CLIPScore", "RefCLIPScore"}


def test_clip_score_without_images_is_refused(tmp_path: Path):
    files = files_of(tmp_path, range(3), range(3))

    with pytest.raises(InputError, match="give --images FOLDER"):
        evaluate_files(*files, options=Evaluation(clip_model="some/clip"))


def test_spice_stands_beside_the_others_with_the_jars_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    files = files_of(tmp_path, range(2), range(2))
    jar = tmp_path / "spice-1.0.jar"
    jar.write_bytes(b"a jar")
    rows = [{"image_id": str(n), "scores": {"All": {"f": 0.5}}} for n in range(2)]
    java = write_fake_java(tmp_path / "bin", f"cat > \"$6\" <<'JSON'\n{json.dumps(rows)}\nJSON")
    monkeypatch.setattr("captioncrafter.metrics.spice.find_java", lambda named: java)

    scores = evaluate_files(*files, options=Evaluation(spice_jar=str(jar))).scores

    assert scores["metrics"]["SPICE"]["value"] == 0.5
    assert scores["scorer"]["SPICE"]["sha256"] == hashlib.sha256(b"a jar").hexdigest()
    assert f"SPICE: by {jar}" in capsys.readouterr().err


def test_extras_that_nobody_asked_for_are_absent(tmp_path: Path):
    scores = evaluate_files(*files_of(tmp_path, range(2), range(2))).scores

    assert not {"SPICE", "CLIPScore", "RefCLIPScore"} & {*scores["metrics"], *scores["scorer"]}


def test_an_image_without_a_prediction_is_refused_by_name(tmp_path: Path):
    predictions, references = files_of(tmp_path, range(3), range(4))

    with pytest.raises(DataError, match=r"1 image has no prediction \(3\)"):
        evaluate_files(predictions, references)


def test_a_prediction_without_references_is_refused_by_name(tmp_path: Path):
    predictions, references = files_of(tmp_path, range(5), range(4))

    with pytest.raises(DataError, match=r"1 prediction has no reference \(4\)"):
        evaluate_files(predictions, references)


def test_a_part_is_scored_when_allowed_and_the_scores_say_so(tmp_path: Path):
    predictions, references = files_of(tmp_path, range(3), range(1, 4))

    scores = evaluate_files(predictions, references, allow_partial=True).scores

    assert scores["images"] == 2
    assert scores["partial"] == {"images_without_prediction": 1, "predictions_without_reference": 1}


def test_files_that_share_no_image_are_refused_even_as_a_part(tmp_path: Path):
    predictions, references = files_of(tmp_path, range(2), range(5, 7))

    with pytest.raises(DataError, match="1 image that all share is needed, and there are 0"):
        evaluate_files(predictions, references, allow_partial=True)


def test_out_receives_scores_and_a_row_for_each_image(tmp_path: Path):
    predictions, references = files_of(tmp_path, range(4), range(4))

    found = evaluate_files(predictions, references, out=tmp_path / "out")

    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == found.scores
    rows = [json.loads(line) for line in (tmp_path / "out" / "image_scores.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == ["0", "1", "2", "3"]
    assert all(set(row) == {"image_id", *METRICS} for row in rows)


def test_a_runs_predictions_are_what_its_adapter_says_from_the_images_up(run: Path):
    evaluate_run(run, split="validation")

    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    captioner = Captioner.load(adapter=run / "adapter")
    from captioncrafter.data.splits import load_splits
    from captioncrafter.recipe import Data

    data = json.loads((run / "recipe.json").read_text())["data"]
    pictures = [image.decode() for image in load_splits(Data(**data))["validation"]]
    assert [row["caption"] for row in predictions] == captioner.caption(pictures)


def test_scores_of_predictions_read_back_equal_those_of_the_run(run: Path):
    tuned, _ = evaluate_run(run, split="validation")
    data = json.loads((run / "recipe.json").read_text())["data"]["path"]

    again = evaluate_files(run / "predictions.jsonl", Path(data), split="validation")

    values = {name: one["value"] for name, one in tuned.scores["metrics"].items()}
    assert {name: one["value"] for name, one in again.scores["metrics"].items()} == values


def test_the_base_is_the_checkpoint_without_the_adapter(run: Path, tiny_checkpoint: Path):
    evaluate_run(run, split="validation", base=True)

    predictions = [json.loads(line) for line in (run / "base" / "predictions.jsonl").read_text().splitlines()]
    alone = Captioner.load(str(tiny_checkpoint), precision="fp32", device="cpu")
    from captioncrafter.data.splits import load_splits
    from captioncrafter.recipe import Data

    data = json.loads((run / "recipe.json").read_text())["data"]
    pictures = [image.decode() for image in load_splits(Data(**data))["validation"]]
    expected = alone.caption(pictures, num_beams=1, max_new_tokens=8, images_per_batch=2)
    assert [row["caption"] for row in predictions] == expected


def test_the_test_split_is_scored_where_there_is_one(run: Path):
    tuned, _ = evaluate_run(run)

    assert tuned.scores["split"] == "test"
    assert tuned.scores["images"] == 2


def test_a_run_that_is_scored_on_its_training_images_says_so(run: Path, capsys: pytest.CaptureFixture[str]):
    tuned, _ = evaluate_run(run, split="train")

    assert tuned.scores["seen_in_training"]["images"] == 6
    assert "6 of the 6 evaluated images were in training" in capsys.readouterr().err


def test_a_run_scores_what_was_stated_in_place_of_its_recipe(run: Path, tmp_path: Path):
    clip = write_tiny_clip(tmp_path / "clip")

    tuned, _ = evaluate_run(run, split="validation", options=Evaluation(clip_model=str(clip)))

    assert list(tuned.scores["metrics"]) == [*METRICS, "CLIPScore", "RefCLIPScore"]
    assert tuned.scores["scorer"]["bootstrap_resamples"] == 100  # the recipe's
    assert tuned.scores["seen_in_training"] == {
        "images": 0,
        "image_ids": [],
        "training_images": 6,
        "training_data": json.loads((run / "recipe.json").read_text())["data"]["path"],
        "compared_by": "image bytes",
    }


def test_base_scores_under_another_corpus_do_not_stay(run: Path, tmp_path: Path):
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"image_id": "1", "captions": ["a dog"]}])
    evaluate_run(run, split="validation", base=True)

    evaluate_run(run, split="validation", options=Evaluation(document_frequencies=str(corpus)))

    assert not (run / "base").exists()


def test_base_scores_of_another_evaluation_do_not_stay(run: Path):
    evaluate_run(run, split="validation", base=True)

    evaluate_run(run, split="test")

    assert not (run / "base").exists()


def test_the_card_shows_the_scores_of_the_run(run: Path):
    tuned, _ = evaluate_run(run, split="validation")

    card = (run / "adapter" / "README.md").read_text()

    assert f"| CIDEr | {100 * tuned.scores['metrics']['CIDEr']['value']:.1f} [" in card


def test_a_run_without_an_adapter_is_refused(tmp_path: Path, tiny_checkpoint: Path):
    recipe = tiny_recipe(tiny_checkpoint, tmp_path / "data")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))

    with pytest.raises(DataError, match="no adapter yet"):
        evaluate_run(tmp_path)
