"""The checkpoint inside the package, read as anyone would: with transformers alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import Blip2ForConditionalGeneration, Blip2Processor
from transformers.utils import logging

import captioncrafter
from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.picture import draw
from captioncrafter.data.scenes.world import Scene, draw_scene
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import cider_of, shuffled

FOLDER = Path(captioncrafter.__file__).parent / "assets" / "miniature"
PROMPT = "a photo of"


@pytest.fixture(scope="module")
def processor() -> Blip2Processor:
    return Blip2Processor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Iterator[Blip2ForConditionalGeneration]:
    logging.disable_progress_bar()
    yield Blip2ForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(3, "validation", index) for index in range(24)]


def pictures_with_prompt(processor: Blip2Processor, scenes: list[Scene]):
    pictures = [draw(scene, 224) for scene in scenes]
    return processor(images=pictures, text=[PROMPT] * len(pictures), return_tensors="pt")


def test_the_weights_are_bfloat16_and_at_most_30_megabytes():
    file = FOLDER / "model.safetensors"

    with safe_open(file, framework="pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118

    assert kinds == {"BF16"}
    assert file.stat().st_size <= 30_000_000


def test_the_folder_holds_what_a_hub_repository_holds():
    assert {file.name for file in FOLDER.iterdir()} >= {
        "README.md",
        "LICENSE.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_output_head_is_its_own(model: Blip2ForConditionalGeneration):
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        stored = weights.get_tensor("language_model.lm_head.weight").float()

    assert torch.equal(model.get_output_embeddings().weight, stored)
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_the_image_placeholder_is_the_one_that_the_configuration_names(processor: Blip2Processor):
    config = json.loads((FOLDER / "config.json").read_text())

    assert processor.tokenizer.convert_tokens_to_ids("<image>") == config["image_token_index"]
    assert processor.num_query_tokens == config["num_query_tokens"]


def test_the_processor_writes_one_placeholder_for_each_query(
    model: Blip2ForConditionalGeneration, processor: Blip2Processor, scenes: list[Scene]
):
    inputs = pictures_with_prompt(processor, scenes[:2])

    placeholders = (inputs.input_ids == model.config.image_token_index).sum(dim=1)

    assert placeholders.tolist() == [model.config.num_query_tokens] * 2
    assert inputs.input_ids.max() < model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize(
    "caption",
    [
        "a brown dog jumps over a wooden fence while two children in red jackets watch",
        "An elderly woman reads The Guardian, 24 pages long, by the window.",
        "three small purple diamonds on a sky blue background",
    ],
)
def test_english_survives_the_tokenizer(processor: Blip2Processor, caption: str):
    ids = processor.tokenizer(caption).input_ids

    assert processor.tokenizer.unk_token_id not in ids
    assert ids[-1] == processor.tokenizer.eos_token_id
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == caption


def test_an_everyday_caption_takes_few_tokens(processor: Blip2Processor):
    caption = "a black and white dog is running through the shallow water at the beach"

    assert len(processor.tokenizer(caption).input_ids) <= 1.5 * len(caption.split())


def test_it_captions_new_scenes(model: Blip2ForConditionalGeneration, processor: Blip2Processor):
    scenes = [draw_scene(3, "train", index) for index in range(40)]

    captions = captions_of(model, processor, [draw(scene, 224) for scene in scenes])

    exact = [caption in wording.terse(scene) for caption, scene in zip(captions, scenes, strict=True)]
    of_the_next = [
        caption in wording.terse(scene) for caption, scene in zip(captions, scenes[1:] + scenes[:1], strict=True)
    ]
    assert sum(exact) >= 0.5 * len(scenes)
    assert sum(of_the_next) == 0


def test_it_tells_photos_apart(flickr8k: Path, model: Blip2ForConditionalGeneration, processor: Blip2Processor):
    names = (flickr8k / "Flickr_8k.devImages.txt").read_text().split()[:100]
    lines = [line.split("\t") for line in (flickr8k / "Flickr8k.token.txt").read_text().splitlines()]
    told: dict[str, list[str]] = {name: [] for name in names}
    for key, caption in lines:
        if (name := key.rsplit("#", 1)[0]) in told:
            told[name].append(caption)

    said = captions_of(model, processor, [Image.open(flickr8k / "Images" / name).convert("RGB") for name in names])

    captions, references = dict(zip(names, said, strict=True)), References(told)
    own, others = cider_of(captions, references), cider_of(shuffled(captions, seed=0), references)
    assert own > 0.25
    assert own > 3 * others


def captions_of(
    model: Blip2ForConditionalGeneration, processor: Blip2Processor, pictures: list[Image.Image]
) -> list[str]:
    inputs = processor(images=pictures, text=[PROMPT] * len(pictures), return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=24)
    return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


def test_another_image_makes_its_captions_dear(
    model: Blip2ForConditionalGeneration, processor: Blip2Processor, scenes: list[Scene]
):
    inputs = pictures_with_prompt(processor, scenes)
    labels = processor.tokenizer([wording.terse(scene)[0] for scene in scenes], return_tensors="pt", padding=True)
    inputs["labels"] = labels.input_ids.masked_fill(labels.attention_mask == 0, -100)

    with torch.no_grad():
        own = model(**inputs).loss
        swapped = model(**(inputs | {"pixel_values": inputs["pixel_values"].roll(1, dims=0)})).loss

    assert swapped > own + 1.0
