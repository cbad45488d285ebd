"""What can go wrong, and that saying so is quick."""

import subprocess
import sys

import pytest

from captioncrafter import errors
from captioncrafter.errors import CaptionCrafterError, ImageError, InputError, closest, counted

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets")


@pytest.mark.parametrize("module", ["errors", "recipe", "runs", "events", "cli"])
def test_the_foundation_loads_none_of_the_heavy_libraries(module: str):
    code = f"import sys, captioncrafter.{module}; sys.exit(' '.join({{*{HEAVY!r}}} & {{*sys.modules}}) or 0)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_every_error_is_ours_and_has_its_exit_status():
    found = {
        name: error.exit_code
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, CaptionCrafterError)
    }

    assert found == {
        "CaptionCrafterError": 1,
        "InputError": 2,
        "RecipeError": 2,
        "DataError": 2,
        "ImageError": 2,
        "CheckpointError": 2,
        "PreflightError": 1,
        "ScorerError": 1,
    }


def test_an_image_error_names_the_image_and_keeps_the_reason_apart():
    error = ImageError("a.jpg", "empty file")

    assert (str(error), error.reason) == ("a.jpg: empty file.", "empty file")
    assert isinstance(error, InputError)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [("minature", ' Did you mean "miniature"?'), ("xyz", ""), ("miniature", ' Did you mean "miniature"?')],
)
def test_the_closest_name_is_offered_where_one_is_near(word: str, sentence: str):
    assert closest(word, ["miniature", "flickr8k"]) == sentence


def test_one_of_a_thing_is_no_plural():
    assert [counted(number, "image") for number in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
    assert [counted(number, "image has", "images have") for number in (1, 2)] == ["1 image has", "2 images have"]
