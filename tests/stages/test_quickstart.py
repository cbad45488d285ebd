"""The quick start on the embedded miniature, made small: everything it leaves behind is there."""

import json
from pathlib import Path

import pytest

from captioncrafter import recipe
from captioncrafter.data.images import copyright_notice
from captioncrafter.errors import InputError
from captioncrafter.generation.captioner import Captioner
from captioncrafter.stages.quickstart import QuickstartResult, quickstart
from pages import read


@pytest.fixture(scope="module")
def small() -> recipe.Recipe:
    values = recipe.load("miniature").model_dump()
    values["data"]["scenes"] |= {"train": 32, "validation": 8, "test": 8}
    values["training"] |= {"epochs": 1.0, "images_per_step": 16, "images_per_batch": 8}
    values["evaluation"]["resamples"] = 100
    return recipe.Recipe.model_validate(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "out"


@pytest.fixture(scope="module")
def result(folder: Path, small: recipe.Recipe) -> QuickstartResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONCRAFTER_CACHE", str(folder.parent / "cache"))
        return quickstart(folder, small)


def test_base_and_tuned_are_scored_on_the_same_held_out_scenes(result: QuickstartResult):
    assert result.base.scores["data"] == result.tuned.scores["data"]
    assert result.base.scores["split"] == result.tuned.scores["split"] == "test"


def test_shuffled_cider_stands_beside_the_scores(result: QuickstartResult):
    assert result.tuned.scores["grounding"]["shuffled_CIDEr"] < result.tuned.scores["grounding"]["CIDEr"]


def test_the_report_shows_both(result: QuickstartResult):
    page = result.report.read_text(encoding="utf-8")

    assert "base" in page
    assert f"{100 * result.tuned.scores['metrics']['CIDEr']['value']:.1f}" in page


def test_scenes_are_captioned_before_and_after(result: QuickstartResult, folder: Path):
    scenes = sorted((folder / "pictures").glob("*.png"))

    assert [row["image"] for row in result.captions] == [scene.name for scene in scenes]
    assert [row["base"] for row in result.captions] == Captioner.load().caption(scenes)
    assert [row["tuned"] for row in result.captions] == Captioner.load(adapter=folder / "adapter").caption(scenes)


def test_photos_are_captioned_by_the_base(result: QuickstartResult, folder: Path):
    photos = sorted((folder / "pictures").glob("*.jpg"))

    assert [row["image"] for row in result.photos] == [photo.name for photo in photos]
    assert [row["base"] for row in result.photos] == Captioner.load().caption(photos)


def test_every_photo_says_whose_it_is(folder: Path, result: QuickstartResult):
    notices = [copyright_notice(folder / "pictures" / row["image"]) for row in result.photos]

    assert notices and all("https://creativecommons.org/licenses/by/" in notice for notice in notices)


def test_every_photo_has_its_licence_beside_it(folder: Path, result: QuickstartResult):
    licences = (folder / "pictures" / "LICENSE.md").read_text(encoding="utf-8")

    assert result.photos and all(f"`{row['image']}`" in licences for row in result.photos)


def test_the_report_shows_those_pictures(result: QuickstartResult):
    root = read(result.report.read_text(encoding="utf-8"))

    shown = [card.get("aria-label") for card in root.findall(".//section[@id='pictures']//article")]
    assert shown == [row["image"] for row in (*result.captions, *result.photos)]


def test_the_run_folder_is_complete(result: QuickstartResult, folder: Path):
    names = {file.name for file in folder.iterdir()}

    assert names >= {
        "recipe.json", "manifest.json", "log.jsonl", "checkpoints", "adapter", "base", "predictions.jsonl",
        "scores.json", "image_scores.jsonl", "report.html",
    }  # fmt: skip
    assert json.loads((folder / "manifest.json").read_text())["result"]["steps"] == 2


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path: Path, small: recipe.Recipe):
    (tmp_path / "thesis.txt").write_text("three years of work")

    with pytest.raises(InputError, match="not an older quick start"):
        quickstart(tmp_path, small)

    assert (tmp_path / "thesis.txt").read_text() == "three years of work"
