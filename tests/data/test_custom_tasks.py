"""What docs/custom_tasks.md tells people to run, run."""

import json
import re
from pathlib import Path

import datasets
import pytest

from captioncrafter import recipe
from captioncrafter.data.splits import load_splits
from sources import photo

GUIDE = (Path(__file__).parents[2] / "docs" / "custom_tasks.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def write_questions(folder: Path) -> None:
    """Photos and questions.jsonl in the form that the guide shows; two questions about each photo."""
    (shown,) = map(json.loads, blocks("json"))
    (folder / "photos").mkdir()
    lines = []
    for number, split in enumerate(("train", "train", "validation", "test")):
        (folder / "photos" / f"{number}.jpg").write_bytes(photo(number))
        for kind in ("count", "colour"):
            lines.append(json.dumps(shown | {"split": split, "photo": f"{number}.jpg", "kind": kind}))
    (folder / "questions.jsonl").write_text("\n".join(lines))


def test_the_guides_code_writes_a_dataset_folder_that_a_recipe_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_questions(tmp_path)
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    (code,) = blocks("python")

    exec(compile(code, "docs/custom_tasks.md", "exec"), {})

    splits = load_splits(recipe.parse(blocks("toml")[0], source="docs/custom_tasks.md").data)
    assert {name: len(images) for name, images in splits.items()} == {"train": 4, "validation": 2, "test": 2}
    first, second = list(splits["train"])[:2]
    assert (first.image_id, second.image_id) == ("0.jpg/count", "0.jpg/colour")
    assert first.prompt == "Question: how many cups are there? Answer:"
    assert first.captions == ("two",)
    assert first.content == second.content
    assert first.decode().mode == "RGB"


def test_the_pictures_are_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_questions(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "docs/custom_tasks.md", "exec"), {})
    for number in range(4):
        (tmp_path / "photos" / f"{number}.jpg").unlink()

    splits = load_splits(recipe.Data(path="data/kitchen"))

    assert next(iter(splits["test"])).decode().size


def test_the_guides_recipes_are_valid():
    for text in blocks("toml"):
        recipe.parse(text, source="docs/custom_tasks.md")


def test_the_recipe_that_the_guide_runs_asks_questions():
    scenes = recipe.load("scenes-vqa").data.scenes

    assert scenes is not None
    assert scenes.task == "questions"
