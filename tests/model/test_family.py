"""The BLIP-2s that can be tuned: what the documentation says of them is what their configurations come to."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from captioncrafter import Captioner, recipe
from captioncrafter.data.images import decode_image
from captioncrafter.errors import CheckpointError
from captioncrafter.features.extract import pixel_values
from captioncrafter.model import checkpoint, lora, memory
from captioncrafter.model.cut import Cut, deepest_cut
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.prefix import features_at
from captioncrafter.model.prompts import encode_prompt, stacked
from captioncrafter.training.packing import encode_captions
from families import PUBLISHED, published_config
from hub_layouts import COCO, write_published
from tiny import changed_copy, load_tiny, picture

MODELS = Path(__file__).parents[2] / "docs" / "models.md"


def rows_of(heading: str) -> dict[str, list[str]]:
    """The cells of the first table under a heading, by the name in its first column."""
    lines = MODELS.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0].strip("`"): row[1:] for row in table[2:]}


@cache
def gigabytes(name: str, quantised: Literal["int8", "nf4"] | None) -> tuple[float, float]:
    """Of the whole model and of its language half, in bfloat16 or quantised."""
    arithmetic = Arithmetic(torch.bfloat16, quantised)
    parts = memory.parts_of(memory.meta_model(published_config(name), torch.bfloat16), arithmetic)
    whole = sum(part.bytes for part in parts)
    return whole / 1e9, sum(part.bytes for part in parts if part.name.startswith("language_model")) / 1e9


def test_the_documentation_tells_of_the_whole_family():
    assert rows_of("Size").keys() == PUBLISHED.keys() == rows_of("Memory").keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sizes_in_the_documentation_are_those_of_the_configurations(name: str):
    config = published_config(name)
    parts = memory.parts_of(memory.meta_model(config, torch.bfloat16), Arithmetic(torch.float32))
    count = sum(part.parameters for part in parts)
    language_model = sum(part.parameters for part in parts if part.name.startswith("language_model"))
    side = config.vision_config.image_size

    assert rows_of("Size")[name][:4] == [
        f"{count / 1e6:,.1f} M",
        f"{language_model / 1e6:,.1f} M",
        f"{side} px, {(side // 14) ** 2 + 1} patches",
        f"{4 * count / 1e9:.1f} GB",
    ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_weights_in_the_documentation_are_those_of_the_configurations(name: str):
    told = rows_of("Memory")[name]

    assert told[:3] == [
        f"{whole:.1f} / {language_model:.1f}"
        for whole, language_model in (gigabytes(name, kind) for kind in (None, "int8", "nf4"))
    ]


@pytest.mark.parametrize(
    ("name", "layers", "cut"),
    [
        ("flickr8k-flan-t5-xl", {"language_model": 144}, Cut.QFORMER),
        ("flickr8k-flan-t5-xl-quality", {"language_model": 144, "qformer": 36}, Cut.VISION),
        ("flickr8k-flan-t5-xl-qlora", {"language_model": 432}, Cut.QFORMER),
        ("flickr8k-opt-2.7b", {"language_model": 64}, Cut.QFORMER),
        ("coco-flan-t5-xl", {"language_model": 144}, Cut.QFORMER),
    ],
)
def test_a_recipe_reaches_these_layers_of_its_base(name: str, layers: dict[str, int], cut: Cut):
    options = recipe.load(name)
    config = published_config(options.model.base)

    reached = lora.planned_layers(config, options.lora)

    parts = [layer.split(".")[0] for layer in reached]
    assert {part: parts.count(part) for part in parts} == layers
    assert deepest_cut(config, reached) is cut


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy in the layout of the -coco checkpoints: 364 pixels."""
    return write_published(tmp_path_factory.mktemp("coco") / "checkpoint", COCO)


def test_an_image_of_364_pixels_has_677_patches(coco: Path):
    _, processor, model = load_tiny(coco)
    pixels = pixel_values(processor, [decode_image(picture(1))])

    patches = features_at(model, pixels, Cut.VISION, stacked([encode_prompt(processor, "")], pad_id=0))

    assert patches.shape == (1, 677, 32)


def test_captions_of_364_pixels_are_the_stock_models(coco: Path):
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    image = decode_image(picture(1))
    processor: Any = Blip2Processor.from_pretrained(coco)
    given = processor(images=image, text="a photo of", return_tensors="pt")
    tokens = Blip2ForConditionalGeneration.from_pretrained(coco).eval().generate(**given, num_beams=2, max_new_tokens=5)

    captions = Captioner.load(str(coco), device="cpu", precision="fp32").caption(image, num_beams=2, max_new_tokens=5)

    assert captions == processor.batch_decode(tokens, skip_special_tokens=True)


def test_a_caption_of_opt_ends_with_the_line_break_at_which_its_generation_stops(tmp_path: Path):
    _, processor, model = load_tiny(write_published(tmp_path / "opt", kind="opt"))

    encoded, _ = encode_captions(
        processor.tokenizer, ["a dog", "two cats"], model.config, prompt="a photo of", max_tokens=32
    )

    ends = {ids[-1] for ids in encoded}
    assert ends == {50_118} == {model.language_model.generation_config.eos_token_id}
    assert processor.tokenizer.decode(ends.pop()) == "\n"


def test_a_preprocessor_of_another_size_than_the_models_is_refused(coco: Path, tmp_path: Path):
    size = {"height": 224, "width": 224}
    other = changed_copy(coco, tmp_path / "other", "preprocessor_config.json", size=size)

    with pytest.raises(CheckpointError, match="makes images of 224 × 224 pixels, and its model takes 364 × 364"):
        checkpoint.load_processor(checkpoint.find(str(other)))
