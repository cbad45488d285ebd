"""Where the numbers come from: nothing left out, and what was chosen marked."""

from captioncrafter import recipe
from captioncrafter.report.provenance import Section, manifest_sections, protocol_sections, recipe_sections, spoken


def entries(sections: list[Section]) -> dict[str, str]:
    return {f"{section.title}/{entry.name}": entry.value for section in sections for entry in section.entries}


def chosen(sections: list[Section]) -> set[str]:
    return {f"{section.title}/{entry.name}" for section in sections for entry in section.entries if entry.chosen}


def test_options_that_differ_from_the_defaults_are_marked():
    options = recipe.build({"lora": {"rank": 64, "targets": ["q", "k"]}, "seed": 3}, source="mine.toml")

    assert chosen(recipe_sections(options.model_dump(mode="json"))) == {"lora/rank", "lora/targets", "recipe/seed"}


def test_the_default_recipe_has_no_mark():
    assert chosen(recipe_sections(recipe.Recipe().model_dump(mode="json"))) == set()


def test_every_option_of_the_recipe_is_shown():
    options = recipe.load("miniature").model_dump(mode="json")

    shown = entries(recipe_sections(options))

    assert shown["lora/targets"] == ", ".join(options["lora"]["targets"])
    assert shown["data/scenes › train"] == str(options["data"]["scenes"]["train"])
    assert sum(map(len, (options[name] for name in ("training", "decoding")))) == sum(
        key.startswith(("training/", "decoding/")) for key in shown
    )


def test_the_protocol_is_all_of_the_scores_but_the_scores():
    scores = {"images": 1000, "metrics": {"CIDEr": {}}, "diversity": {}, "grounding": {}, "scorer": {"METEOR": "1.5"}}

    assert entries(protocol_sections(scores)) == {"evaluation/images": "1,000", "scorer/METEOR": "1.5"}


def test_the_manifest_is_shown_as_it_is():
    manifest = {"device": "cpu", "preflight": {"loss": 10.260144}, "data": {"train": {"images": 6000}}, "empty": {}}

    assert entries(manifest_sections(manifest)) == {
        "run/device": "cpu",
        "preflight/loss": "10.26",
        "data/train › images": "6,000",
    }


def test_values_are_spoken_as_a_person_writes_them():
    assert [spoken(value) for value in (None, True, False, 1e-4, 1200, 0.05, [], "a photo of")] == [
        "none", "yes", "no", "0.0001", "1,200", "0.05", "none", "a photo of",
    ]  # fmt: skip


def test_a_long_list_is_counted():
    assert spoken(list(range(20))).endswith("10, 11 and 8 more")
