"""What captions come of is told without loading anything, and tells any two that differ apart."""

import json
import shutil
from pathlib import Path

import pytest

from captioncrafter import recipe
from captioncrafter.generation.captioner import write_captioning
from captioncrafter.generation.origin import Origin
from captioncrafter.model import checkpoint, lora
from tiny import load_tiny, rewrite_tensors


@pytest.fixture(scope="module")
def tuned(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found, _, model = load_tiny(tiny_checkpoint)
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    lora.save_adapter(lora.attach(model, recipe.Lora(rank=2), seed=0), found, folder)
    write_captioning(folder, found, prompt="two dogs", decoding=recipe.Decoding(), precision="fp32")
    return folder


@pytest.fixture
def adapter(tuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tuned, tmp_path / "adapter"))


def test_an_adapter_is_described_with_its_base_and_settings(tiny_checkpoint: Path, adapter: Path):
    told = Origin.of(adapter=adapter).describe()

    assert told["base"] == str(tiny_checkpoint.resolve())
    assert told["weights"] == checkpoint.find(str(tiny_checkpoint)).describe()["weights"]
    assert told["adapter"] == str(adapter)
    assert told["prompt"] == "two dogs"
    assert json.loads(json.dumps(told)) == told


def test_other_adapter_weights_are_another_origin(adapter: Path):
    before = Origin.of(adapter=adapter).describe()

    rewrite_tensors(adapter / lora.ADAPTER_WEIGHTS, lambda tensors: next(iter(tensors.values())).add_(1))

    assert Origin.of(adapter=adapter).describe()["adapter_weights"] != before["adapter_weights"]


def test_a_hub_checkpoint_is_described_without_fetching_it():
    told = Origin.of("someone/not-here", revision="abc").describe()

    assert (told["base"], told["revision"], told["weights"]) == ("someone/not-here", "abc", None)


def test_decoding_is_described_as_it_comes_out_but_for_the_batch_size():
    one, other = (Origin.of().with_decoding(num_beams=2, images_per_batch=size).describe() for size in (1, 2))

    assert one == other
    assert one["decoding"]["num_beams"] == 2


def test_a_base_that_an_adapter_was_merged_into_brings_its_prompt_and_decoding(tiny_checkpoint: Path, tmp_path: Path):
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "merged"))
    settings = {"prompt": "two dogs", "precision": "fp32", "decoding": {"num_beams": 3}, "merged_from": {"base": "x"}}
    (base / "captioning.json").write_text(json.dumps(settings))

    origin = Origin.of(str(base))

    assert (origin.prompt, origin.precision, origin.decoding.num_beams) == ("two dogs", "fp32", 3)
    assert (origin.base, origin.tuned_on) == (str(base), None)
    assert Origin.of(str(base), prompt="a cat").prompt == "a cat"


def test_an_adapters_own_settings_win_over_its_bases(tiny_checkpoint: Path, adapter: Path, tmp_path: Path):
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "merged"))
    (base / "captioning.json").write_text(json.dumps({"prompt": "a cat"}))

    assert Origin.of(str(base), adapter=adapter).prompt == "two dogs"
