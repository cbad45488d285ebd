"""Recipes: what they state, what they refuse and in which words."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from captioncrafter import recipe
from captioncrafter.errors import InputError, RecipeError
from captioncrafter.recipe import reading


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as refused:
        recipe.parse(text, source="mine.toml")
    return str(refused.value)


def options(section: type[BaseModel] = recipe.Recipe, name: str = "") -> Iterator[tuple[str, str | None]]:
    """Every option that holds a value, as `section.option`, with its description."""
    inner = reading._sections(section)
    for key, field in section.model_fields.items():
        if key in inner:
            yield from options(inner[key], f"{name}{key}.")
        else:
            yield f"{name}{key}", field.description


@pytest.mark.parametrize("name", recipe.bundled())
def test_every_bundled_recipe_loads_by_name(name: str):
    assert isinstance(recipe.load(name), recipe.Recipe)


def test_the_bundled_recipes_are_these():
    assert recipe.bundled() == [
        "coco-flan-t5-xl",
        "flickr8k-flan-t5-xl",
        "flickr8k-flan-t5-xl-qlora",
        "flickr8k-flan-t5-xl-quality",
        "flickr8k-miniature",
        "flickr8k-opt-2.7b",
        "miniature",
        "scenes-vqa",
    ]


@pytest.mark.parametrize("name", [name for name in recipe.bundled() if "flan-t5-xl" in name])
def test_a_bundled_recipe_pins_what_it_downloads(name: str):
    assert len(recipe.load(name).model.revision or "") == 40


def test_a_file_states_only_what_differs(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 4\n[lora]\nrank = 64\n[data.scenes]\ntrain = 9\n")

    loaded = recipe.load(str(file))

    assert loaded == recipe.Recipe(seed=4, lora=recipe.Lora(rank=64), data=recipe.Data(scenes=recipe.Scenes(train=9)))


def test_an_empty_recipe_is_the_defaults():
    assert recipe.parse("", source="mine.toml") == recipe.Recipe()


def test_a_recipe_saved_with_a_byte_order_mark_loads(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 4\r\n")

    assert recipe.load(str(file)).seed == 4


def test_a_resolved_recipe_read_back_from_json_is_the_same():
    resolved = recipe.load("miniature")

    assert recipe.build(resolved.model_dump(mode="json"), source="recipe.json") == resolved


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[lroa]\nrank = 8", 'mine.toml: unknown key "lroa". Did you mean "lora"?'),
        ("[lora]\nranks = 8", 'mine.toml: unknown key "lora.ranks". Did you mean "rank"?'),
        ("[data.scenes]\ntrian = 8", 'mine.toml: unknown key "data.scenes.trian". Did you mean "train"?'),
        (
            "[lora]\nbias = true",
            'mine.toml: unknown key "lora.bias". Keys here: preset, rank, alpha, dropout, parts, targets, '
            "pattern, train_projection, init, use_rslora, use_dora.",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name_or_all(text: str, message: str):
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[lora]\nrank = 0", "lora.rank = 0: input should be greater than or equal to 1."),
        ("[lora]\ndropout = 1.0", "lora.dropout = 1.0: input should be less than 1."),
        ("[data.scenes]\ntrain = 1", "data.scenes.train = 1: input should be greater than or equal to 2."),
        ("seed = -1", "seed = -1: input should be greater than or equal to 0."),
        ("[training]\nlearning_rate = 0", "training.learning_rate = 0: input should be greater than 0."),
        ("[training]\nlearning_rate = inf", "training.learning_rate = inf: input should be a finite number."),
        ("[decoding]\nlength_penalty = nan", "decoding.length_penalty = nan: input should be a finite number."),
        (
            "[model]\nprecision = 'fp16'",
            "model.precision = 'fp16': float16 makes T5 overflow (NaN from its first "
            "feed-forward, transformers#9295): take bf16, or fp32 where the hardware has no bf16.",
        ),
        ("[lora]\ntargets = []", "lora.targets = []: list should have at least 1 item after validation, not 0."),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_key_and_bound(text: str, message: str):
    assert refusal(text) == f"mine.toml: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[lora]\nrank = 'sixteen'", "lora.rank = 'sixteen': input should be a valid integer."),
        ("[lora]\nrank = '16'", "lora.rank = '16': input should be a valid integer."),
        ("[lora]\nrank = true", "lora.rank = True: input should be a valid integer."),
        ("[lora]\nrank = 16.5", "lora.rank = 16.5: input should be a valid integer."),
        ("[decoding]\nsample = 'yes'", "decoding.sample = 'yes': input should be a valid boolean."),
        ("[model]\nrevision = 3", "model.revision = 3: input should be a valid string."),
        ("[lora]\ntargets = 'q'", "lora.targets = 'q': input should be a list."),
        ("lora = 3", "lora = 3: input should be a section."),
    ],
)
def test_a_value_of_another_type_is_refused_with_key_and_type(text: str, message: str):
    assert refusal(text) == f"mine.toml: {message}"


def test_a_whole_number_may_stand_for_a_fraction():
    assert recipe.parse("[training]\nepochs = 3", source="mine.toml").training.epochs == 3.0


def test_a_wrong_word_in_a_list_is_refused_once_by_its_place():
    assert refusal("[lora]\nparts = ['vision']") == (
        "mine.toml: lora.parts.0 = 'vision': input should be 'language_model', 'language_model.encoder', "
        "'language_model.decoder', 'qformer' or 'vision_model'."
    )


def test_every_fault_is_named_at_once():
    assert refusal("sede = 1\n[lora]\nrank = 0\n[training]\nepochs = -1").splitlines() == [
        "mine.toml: lora.rank = 0: input should be greater than or equal to 1.",
        "mine.toml: training.epochs = -1: input should be greater than 0.",
        'mine.toml: unknown key "sede". Did you mean "seed"?',
    ]


def test_a_folder_and_scenes_exclude_each_other():
    assert refusal("[data]\npath = 'd'\n[data.scenes]") == (
        "mine.toml: [data]: path and scenes exclude each other: give one of them."
    )


def test_a_step_is_made_of_whole_batches():
    assert refusal("[training]\nimages_per_step = 30\nimages_per_batch = 8") == (
        "mine.toml: [training]: images_per_step (30) must be a multiple of images_per_batch (8)."
    )


def test_what_is_not_toml_is_refused_with_its_line():
    assert refusal("seed = 1\nrank 16") == (
        "mine.toml: not valid TOML: Expected '=' after a key in a key/value pair (at line 2, column 6)."
    )


def test_what_is_not_utf8_is_refused_by_name(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"# caf\xe9\n")

    with pytest.raises(RecipeError, match=r"mine\.toml: not UTF-8 text"):
        recipe.load(str(file))


def test_an_unknown_name_is_told_the_nearest_and_all():
    with pytest.raises(RecipeError) as refused:
        recipe.load("minature")

    assert str(refused.value) == (
        'no recipe is called "minature", and no such file exists. Did you mean "miniature"? '
        f"Bundled recipes: {', '.join(recipe.bundled())}."
    )


def test_a_recipe_does_not_change_after_checking():
    options = recipe.load("miniature")

    with pytest.raises(ValidationError):
        options.seed = 4
    with pytest.raises(ValidationError):
        options.lora.rank = 4


@pytest.mark.parametrize(("option", "description"), list(options()))
def test_every_option_says_what_it_means(option: str, description: str | None):
    assert description, option
    assert description.endswith(".")


def test_decoding_settings_complete_the_defaults():
    assert recipe.check_decoding({"num_beams": 3}) == recipe.Decoding(num_beams=3)


def test_wrong_decoding_settings_are_all_named():
    with pytest.raises(InputError) as refused:
        recipe.check_decoding({"num_beams": 0, "top_p": 2.0})

    assert str(refused.value).splitlines() == [
        "decoding: num_beams = 0: input should be greater than or equal to 1.",
        "decoding: top_p = 2.0: input should be less than or equal to 1.",
    ]


def test_an_unknown_decoding_setting_names_the_nearest():
    with pytest.raises(InputError, match=r'decoding: unknown key "num_beam"\. Did you mean "num_beams"\?'):
        recipe.check_decoding({"num_beam": 3})


def test_options_that_do_not_fit_together_are_explained_where_a_section_is_read_alone():
    with pytest.raises(ValidationError) as refused:
        recipe.Evaluation(clip_revision="c237dc4")

    told = recipe.explain(refused.value, source="command line", checked=recipe.Evaluation)
    assert told == "command line: clip_revision is a commit of clip_model, and none is given."
