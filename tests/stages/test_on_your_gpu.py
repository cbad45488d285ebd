"""What docs/on_your_gpu.md says of cards and recipes is what the code says."""

import re
from pathlib import Path

import tyro

from captioncrafter import recipe
from captioncrafter.cli.commands import Caption, Evaluate, Export, Plan, Prepare, Train
from captioncrafter.stages import remedies
from captioncrafter.stages.plan import plan
from families import published_config

PAGE = (Path(__file__).parents[2] / "docs" / "on_your_gpu.md").read_text(encoding="utf-8")
CARDS = ["4GB", "6GB", "8GB", "12GB", "24GB", "80GB"]
RECIPES = [
    "flickr8k-flan-t5-xl",
    "coco-flan-t5-xl",
    "flickr8k-flan-t5-xl-qlora",
    "flickr8k-flan-t5-xl-quality",
    "flickr8k-opt-2.7b",
]
VERBS = {"prepare": Prepare, "plan": Plan, "train": Train, "evaluate": Evaluate, "caption": Caption, "export": Export}


def rows() -> list[list[str]]:
    """Card, recipe, change, images at once, memory, captioning."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if "GB | `" in line]
    return [row for row in found if len(row) == 6]


def changes_of(cell: str) -> dict[str, object]:
    """The options that the words of a table's cell change, with the kind that each has."""
    found: dict[str, object] = {}
    for change in cell.strip("`").split("--")[1:]:
        key, *value = change.split()
        found[key.replace("-", "_")] = (int(value[0]) if value[0].isdecimal() else value[0]) if value else True
    return found


def test_the_table_has_every_card_with_every_recipe():
    assert [row[:2] for row in rows()] == [[card, f"`{name}`"] for name in RECIPES for card in CARDS]


def test_every_change_is_an_option_of_its_recipe():
    for _, name, change, *_ in rows():
        assert remedies.changed(recipe.load(name.strip("`")), changes_of(change)) is not None


def test_the_plans_change_and_memory_are_those_of_the_table(tmp_path: Path):
    # One row, for planning xl takes seconds.
    card, name = "8GB", "flickr8k-flan-t5-xl"
    options = recipe.load(name)
    (tmp_path / "config.json").write_text(published_config(options.model.base).to_json_string())
    options = remedies.changed(options, {"model.base": str(tmp_path), "data.path": str(tmp_path / "none")})
    assert options is not None

    found = plan(options, gpu_memory=card)

    _, _, change, at_once, told, captioning = next(row for row in rows() if row[:2] == [card, f"`{name}`"])
    flags = found.flags or []
    peak = found.changed_peak_bytes or found.peak_bytes
    assert change.strip("`").split() == flags
    assert int(at_once) == found.images_at_once
    assert told == (f"{peak / 1e9:.2f}" + (f" ({found.peak_bytes / 1e9:.2f})" if flags else ""))
    assert captioning == f"{found.captioning_bytes / 1e9:.2f}"


def test_the_pages_commands_are_commands():
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = "\n".join(text for language, text in blocks if not language).replace(" \\\n", " ").splitlines()
    commands = [line.split("#")[0].split()[1:] for line in lines if line.startswith("captioncrafter ")]

    for verb, *words in commands:
        if verb in VERBS and "$(sed" not in words:
            tyro.cli(VERBS[verb], args=words)

    assert {verb for verb, *_ in commands} == {*VERBS, "doctor"}
