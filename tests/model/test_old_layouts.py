"""Copies of the hub's checkpoints, old and new, are one model: what old ones lack is mended in memory and said once."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from captioncrafter import Captioner
from captioncrafter.errors import CheckpointError
from captioncrafter.model import checkpoint, lora
from captioncrafter.stages.train import train
from hub_layouts import COCO, CURRENT, INDEX, OF_2023, OLD, VOCABULARY, WHOLE, Kind, Layout, write_published
from tiny import changed_copy, load_tiny, picture, tiny_recipe, write_tiny_dataset

KINDS: tuple[Kind, ...] = ("t5", "opt")
LAYOUTS = WHOLE | OLD | {"at 364 pixels": COCO}
ROAD: list[tuple[str, Kind]] = [
    *((layout, "t5") for layout in LAYOUTS),
    *((layout, "opt") for layout in ("as published", "of 2023")),
]
MERGED: list[tuple[str, Kind]] = [
    *((layout, "t5") for layout in ("as published", "of 2023", "at 364 pixels")),
    *((layout, "opt") for layout in ("as published", "of 2023")),
]
"""Merging knows a copy as it was mended: one with nothing to mend, one with all of it."""
COPIES = [*((layout, "t5") for layout in (*WHOLE, *OLD)), ("as published", "opt"), ("of 2023", "opt")]
Made = Callable[[Layout, Kind], Path]
Trained = Callable[[Layout, Kind], Path]
Captioned = Callable[[Layout, Kind], list[str]]
Merged = Callable[[Layout, Kind], tuple[Captioner, Path]]
HEAD = "language_model.lm_head.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder of a copy, written once."""

    @cache
    def write(layout: Layout, kind: Kind) -> Path:
        return write_published(tmp_path_factory.mktemp(kind) / "checkpoint", layout, kind)

    return write


def logits_of(folder: Path) -> torch.Tensor:
    """The stock forward's, of two pictures under a prompt, all by our loading."""
    _, processor, model = load_tiny(folder)
    return forward(model, processor)


@torch.no_grad()
def forward(model, processor) -> torch.Tensor:
    from captioncrafter.data.images import decode_image

    given = processor(
        images=[decode_image(picture(number)) for number in (1, 2)], text=["a photo of"] * 2, return_tensors="pt"
    )
    start = {} if model.config.use_decoder_only_language_model else {"decoder_input_ids": torch.zeros(2, 1).long()}
    return model(**given, **start).logits


@pytest.fixture(scope="module")
def stock_logits(made: Made) -> Callable[[Kind], torch.Tensor]:
    """What transformers alone makes of the copy as published."""

    @cache
    def of(kind: Kind) -> torch.Tensor:
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        folder = made(CURRENT, kind)
        return forward(
            Blip2ForConditionalGeneration.from_pretrained(folder).eval(), Blip2Processor.from_pretrained(folder)
        )

    return of


@pytest.mark.parametrize(("layout", "kind"), COPIES)
def test_every_copy_computes_what_stock_transformers_makes_of_the_published_one(
    layout: str, kind: Kind, made: Made, stock_logits: Callable[[Kind], torch.Tensor]
):
    logits = logits_of(made((WHOLE | OLD)[layout], kind))

    assert torch.equal(logits, stock_logits(kind))
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("layout", WHOLE)
def test_a_whole_copy_is_read_without_a_word(layout: str, made: Made, capsys: pytest.CaptureFixture[str]):
    checkpoint.load_small_parts(checkpoint.find(str(made(WHOLE[layout], "t5"))))

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("layout", "kind"), [*((layout, "t5") for layout in OLD), ("of 2023", "opt")])
def test_one_line_says_what_an_old_copy_lacks_however_often_it_is_loaded(
    layout: str, kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    old = OLD[layout]
    folder = write_published(tmp_path / "old", old, kind)

    checkpoint.load_small_parts(checkpoint.find(str(folder)))
    load_tiny(folder)

    (line,) = capsys.readouterr().err.splitlines()
    told = {
        "num_query_tokens in the processor (3,": not old.num_query_tokens,
        f"<image> in the tokenizer (added as id {VOCABULARY[kind]})": old.image_token == "nowhere",
        f"image_token_index in config.json ({VOCABULARY[kind]},": not old.image_token_index,
    }
    assert "an old copy, mended in memory. It lacks" in line
    assert {words: words in line for words in told} == told


def test_mending_leaves_the_files_as_they_are(tmp_path: Path):
    folder = write_published(tmp_path / "old", OF_2023)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    checkpoint.load_small_parts(checkpoint.find(str(folder)))

    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.fixture(scope="module")
def trained(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The adapter of a short training over a copy, through features, preflight and validation."""

    @cache
    def run(layout: Layout, kind: Kind) -> Path:
        folder = tmp_path_factory.mktemp("run")
        data = write_tiny_dataset(folder / "data", train=3, validation=2)
        options = tiny_recipe(
            made(layout, kind), data, training={"epochs": 1.0}, features={"folder": str(folder / "cache")}
        )
        train(options, folder / "run")
        return folder / "run" / "adapter"

    return run


def as_published(layout: Layout) -> Layout:
    """The current layout for the same pictures."""
    return replace(CURRENT, pixels=layout.pixels)


@pytest.mark.parametrize(("layout", "kind"), ROAD)
def test_training_over_every_copy_gives_the_same_adapter(layout: str, kind: Kind, trained: Trained):
    mine = load_file(trained(LAYOUTS[layout], kind) / lora.ADAPTER_WEIGHTS)
    published = load_file(trained(as_published(LAYOUTS[layout]), kind) / lora.ADAPTER_WEIGHTS)

    assert mine.keys() == published.keys()
    assert all(torch.equal(mine[name], published[name]) for name in mine)
    assert any(tensor.any() for name, tensor in mine.items() if ".lora_B." in name)


@pytest.fixture(scope="module")
def captioned(made: Made, trained: Trained) -> Captioned:
    """What a copy writes of three pictures, with the adapter that was trained on the published one."""

    @cache
    def caption(layout: Layout, kind: Kind) -> list[str]:
        captioner = Captioner.load(str(made(layout, kind)), adapter=trained(as_published(layout), kind), device="cpu")
        return captioner.caption([picture(number) for number in range(3)], num_beams=3)

    return caption


@pytest.mark.parametrize(("layout", "kind"), ROAD)
def test_an_adapter_captions_every_copy_as_the_published_one(layout: str, kind: Kind, captioned: Captioned):
    found = LAYOUTS[layout]

    mine, published = captioned(found, kind), captioned(as_published(found), kind)

    assert mine == published
    assert all(mine)


@pytest.fixture(scope="module")
def merged(made: Made, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """A copy with its adapter merged in, in memory and saved by stock transformers."""

    @cache
    def merge(layout: Layout, kind: Kind) -> tuple[Captioner, Path]:
        captioner = Captioner.load(
            str(made(layout, kind)), adapter=trained(layout, kind), device="cpu", precision="fp32", merge=True
        )
        folder = tmp_path_factory.mktemp("merged")
        captioner.model.save_pretrained(folder)
        captioner.processor.save_pretrained(folder)
        return captioner, folder

    return merge


@pytest.mark.parametrize(("layout", "kind"), MERGED)
def test_what_is_merged_into_a_copy_and_saved_is_whole_and_the_same_model(
    layout: str, kind: Kind, merged: Merged, capsys: pytest.CaptureFixture[str]
):
    captioner, folder = merged(LAYOUTS[layout], kind)
    capsys.readouterr()

    _, processor, model = load_tiny(folder)

    assert capsys.readouterr().err == ""
    assert torch.equal(forward(model, processor), forward(captioner.model, captioner.processor))
    saved = json.loads((folder / "config.json").read_text())
    assert saved["image_token_index"] == VOCABULARY[kind]


@pytest.mark.parametrize(("layout", "kind"), MERGED)
def test_what_was_merged_into_a_copy_captions_as_it_did_in_memory(layout: str, kind: Kind, merged: Merged):
    captioner, folder = merged(LAYOUTS[layout], kind)
    pictures, decoding = [picture(number) for number in range(3)], captioner.decoding.model_dump()

    read_back = Captioner.load(str(folder), prompt=captioner.prompt.text, device="cpu", precision="fp32")

    assert read_back.caption(pictures, **decoding) == captioner.caption(pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_stock_transformers_reads_what_was_merged_into_an_old_copy(kind: Kind, merged: Merged):
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    captioner, folder = merged(OF_2023, kind)

    model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()

    stock = forward(model, Blip2Processor.from_pretrained(folder))
    assert torch.equal(stock, forward(captioner.model, captioner.processor))


def test_the_head_stays_untied_from_the_hub_to_the_merged_copy(made: Made, merged: Merged):
    folder = made(CURRENT, "t5")
    shards = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    published = {name: tensor for shard in shards for name, tensor in shard.items()}[HEAD]

    for copy in (folder, merged(OF_2023, "t5")[1]):
        model = load_tiny(copy)[2]
        assert torch.equal(model.get_output_embeddings().weight, published)
        assert not torch.equal(model.get_input_embeddings().weight, published)
        assert not model.config.text_config.scale_decoder_outputs


def test_the_activation_that_the_configuration_names_is_kept(made: Made, merged: Merged):
    for copy in (made(CURRENT, "t5"), made(OF_2023, "t5"), merged(OF_2023, "t5")[1]):
        dense = load_tiny(copy)[2].language_model.encoder.block[0].layer[1].DenseReluDense
        assert type(dense.act).__name__ == "GELUActivation"  # flan-T5's own would be NewGELUActivation


def test_weights_that_are_there_only_as_parts_of_a_pickle_are_refused(tmp_path: Path):
    folder = write_published(tmp_path / "old", OF_2023)
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    for part in (1, 2):
        (folder / f"pytorch_model-{part:05}-of-00002.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")

    with pytest.raises(
        CheckpointError, match=r"only there as pytorch_model-00001-of-00002\.bin, a pickle file.*save_p"
    ):
        load_tiny(folder)


def test_an_image_token_under_two_ids_is_no_old_copy_but_refused(made: Made, tmp_path: Path):
    folder = changed_copy(made(CURRENT, "t5"), tmp_path / "other", "config.json", image_token_index=32_101)

    with pytest.raises(CheckpointError, match=re.escape("<image> is id 32100 and 32101")):
        checkpoint.load_processor(checkpoint.find(str(folder)))


def test_an_image_token_outside_of_the_vocabulary_is_refused(made: Made, tmp_path: Path):
    text = json.loads((made(OF_2023, "t5") / "config.json").read_text())["text_config"]
    folder = changed_copy(made(OF_2023, "t5"), tmp_path / "other", "config.json", text_config=text | {"vocab_size": 96})

    with pytest.raises(CheckpointError, match="<image> is id 32100, but the language model knows 96 tokens only"):
        checkpoint.load_processor(checkpoint.find(str(folder)))
