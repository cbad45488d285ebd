"""Merged on the way from file to file: the model that stock transformers loads is the base with its adapter."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from captioncrafter import recipe
from captioncrafter.errors import CheckpointError
from captioncrafter.model import checkpoint, lora
from captioncrafter.model.merging import Merge
from captioncrafter.model.weights import INDEX, WHOLE
from hub_layouts import CURRENT, OF_2023, Kind, Layout, write_published
from tiny import load_tiny, picture, rewrite_tensors, write_tiny_checkpoint, write_tiny_opt_checkpoint

HEAD, EMBEDDING = "language_model.lm_head.weight", "language_model.shared.weight"
WAYS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True, "alpha": 6.0},
    {"use_dora": True, "preset": "quality"},
    {"preset": "full-bridge"},
    {"init": "pissa", "use_dora": True},
    {"init": "olora", "use_rslora": True},
    {"targets": ["q", "lm_head"], "parts": ["language_model"]},
]
COPIES: dict[str, tuple[Layout, Kind, dict[str, Any], dict[str, Any]]] = {
    "as published": (CURRENT, "t5", {}, {"shard_bytes": 5 * 10**6}),
    "of 2023": (OF_2023, "t5", {"use_dora": True, "preset": "full-bridge"}, {}),
    "OPT of 2023": (OF_2023, "opt", {"use_dora": True, "preset": "full-bridge"}, {}),
}


@pytest.fixture(scope="module")
def t5(tiny_checkpoint: Path):
    return load_tiny(tiny_checkpoint)


def tuned_over(loaded: Any, folder: Path, **options: Any) -> Tensor:
    """Writes an adapter that changes the logits a lot; gives those of the base with it beside."""
    found, processor, model = loaded
    tuned = lora.attach(copy.deepcopy(model), recipe.Lora.model_validate({"rank": 4} | options), seed=0).eval()
    draw = torch.Generator().manual_seed(1)
    for parameter in lora.trainable(tuned).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    lora.save_adapter(tuned, found, folder)
    with tuned.disable_adapter():
        base = logits_of(tuned, processor)
    ours = logits_of(tuned, processor)
    assert (ours - base).abs().max() > 0.1
    return ours


@torch.no_grad()
def logits_of(model: Any, processor: Any) -> Tensor:
    from captioncrafter.data.images import decode_image

    images = [decode_image(picture(number)) for number in (1, 2)]
    given = processor(images=images, text=["a photo of"] * 2, return_tensors="pt").to(model.dtype)
    start = {} if model.config.use_decoder_only_language_model else {"decoder_input_ids": torch.zeros(2, 1).long()}
    return model(**given, **start).logits.float()


def merged(base: Path, adapter: Path, folder: Path, dtype: torch.dtype = torch.float32, **how: Any) -> Path:
    folder.mkdir()
    Merge.of(checkpoint.find(str(base)), adapter).write(folder, dtype, generation={"num_beams": 3}, **how)
    return folder


def stock(folder: Path) -> tuple[Any, Any]:
    """What transformers alone makes of a folder, in the dtype that it names."""
    from transformers import Blip2Processor

    return Blip2ForConditionalGeneration.from_pretrained(folder).eval(), Blip2Processor.from_pretrained(folder)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_stock_transformers_computes_what_base_and_adapter_do(t5, tiny_checkpoint: Path, tmp_path: Path, way):
    ours = tuned_over(t5, tmp_path / "adapter", **way)

    folder = merged(tiny_checkpoint, tmp_path / "adapter", tmp_path / "merged")

    torch.testing.assert_close(logits_of(*stock(folder)), ours, rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class Copy:
    """A copy of the hub's checkpoint, the logits with an adapter beside it, and the folder where that is merged in."""

    base: Path
    adapter: Path
    ours: Tensor
    folder: Path


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Copy]:
    """Copies by their names, written once; the current layout's is merged into parts."""

    @cache
    def make(name: str) -> Copy:
        layout, kind, way, how = COPIES[name]
        folder = tmp_path_factory.mktemp("copy")
        base = write_published(folder / "checkpoint", layout, kind)
        ours = tuned_over(load_tiny(base), folder / "adapter", **way)
        return Copy(base, folder / "adapter", ours, merged(base, folder / "adapter", folder / "merged", **how))

    return make


@pytest.mark.parametrize("name", COPIES)
def test_the_same_holds_for_the_hubs_layouts_old_and_new(copies: Callable[[str], Copy], name: str):
    copy_ = copies(name)

    torch.testing.assert_close(logits_of(*stock(copy_.folder)), copy_.ours, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_weights_are_the_float32_ones_rounded_once(t5, tiny_checkpoint: Path, tmp_path: Path):
    tuned_over(t5, tmp_path / "adapter")

    exact = load_file(merged(tiny_checkpoint, tmp_path / "adapter", tmp_path / "exact") / WHOLE)
    rounded = load_file(merged(tiny_checkpoint, tmp_path / "adapter", tmp_path / "half", torch.bfloat16) / WHOLE)

    assert rounded.keys() == exact.keys()
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("way", WAYS[:4], ids=str)
def test_in_bfloat16_stock_transformers_comes_as_near_as_that_allows(t5, tiny_checkpoint: Path, tmp_path: Path, way):
    ours = tuned_over(t5, tmp_path / "adapter", **way)

    model, processor = stock(merged(tiny_checkpoint, tmp_path / "adapter", tmp_path / "half", torch.bfloat16))

    assert model.dtype == torch.bfloat16
    assert (logits_of(model, processor) - ours).norm() < 0.05 * ours.norm()


def test_weights_that_no_adapter_reaches_keep_every_bit(t5, tiny_checkpoint: Path, tmp_path: Path):
    tuned_over(t5, tmp_path / "adapter")
    reached = {f"{layer}.weight" for layer in lora.stored_layers(tmp_path / "adapter")}

    written = load_file(merged(tiny_checkpoint, tmp_path / "adapter", tmp_path / "merged") / WHOLE)

    before = load_file(tiny_checkpoint / WHOLE)
    assert {name for name in written if not torch.equal(written[name], before[name])} == reached


@pytest.mark.parametrize("name", COPIES)
def test_stock_transformers_finds_no_weight_missing_or_too_many(copies: Callable[[str], Copy], name: str):
    model, report = Blip2ForConditionalGeneration.from_pretrained(copies(name).folder, output_loading_info=True)

    assert not any(report.values())
    assert model.dtype == torch.float32


def test_a_model_above_the_limit_is_written_in_parts_with_their_index(copies: Callable[[str], Copy]):
    folder = copies("as published").folder

    files = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    assert len(files) > 1
    assert files == {f"model-{part + 1:05}-of-{len(files):05}.safetensors" for part in range(len(files))}
    assert not (folder / WHOLE).exists()


@pytest.mark.parametrize("name", ["as published", "of 2023"])
def test_the_head_stays_the_checkpoints_own(copies: Callable[[str], Copy], name: str):
    base, folder = copies(name).base, copies(name).folder

    written, before = (weights_in(each) for each in (folder, base))
    assert torch.equal(written[HEAD], before[HEAD])
    assert not torch.equal(written[HEAD], written[EMBEDDING])
    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert text["tie_word_embeddings"] is False  # older versions of transformers go by it
    assert not checkpoint.load_config(checkpoint.find(str(folder))).text_config.scale_decoder_outputs


def weights_in(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_a_tied_head_stays_tied(tmp_path: Path):
    base = write_tiny_checkpoint(tmp_path / "base", tied=True)
    ours = tuned_over(load_tiny(base), tmp_path / "adapter")

    folder = merged(base, tmp_path / "adapter", tmp_path / "merged")

    assert len({HEAD, EMBEDDING} & load_file(folder / WHOLE).keys()) == 1
    torch.testing.assert_close(logits_of(*stock(folder)), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "token"), [("of 2023", 32_100), ("OPT of 2023", 50_265)])
def test_what_an_old_copy_lacks_is_written_down(
    copies: Callable[[str], Copy], name: str, token: int, capsys: pytest.CaptureFixture[str]
):
    folder = copies(name).folder
    capsys.readouterr()

    checkpoint.load_small_parts(checkpoint.find(str(folder)))

    assert "old copy" not in capsys.readouterr().err
    assert json.loads((folder / "config.json").read_text())["image_token_index"] == token
    assert json.loads((folder / "processor_config.json").read_text())["num_query_tokens"] == 3
    assert '"<image>"' in (folder / "tokenizer.json").read_text()


def test_the_generation_config_is_the_bases_with_the_decoding(copies: Callable[[str], Copy]):
    written = json.loads((copies("OPT of 2023").folder / "generation_config.json").read_text())

    assert (written["eos_token_id"], written["num_beams"]) == (50_118, 3)


def test_stored_tensors_of_no_layer_are_left_out_and_told(t5, tiny_checkpoint: Path, tmp_path: Path):
    tuned_over(t5, tmp_path / "adapter")
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    rewrite_tensors(base / WHOLE, lambda tensors: tensors.update(leftover=torch.zeros(2)))

    merge = Merge.of(checkpoint.find(str(base)), tmp_path / "adapter")

    assert merge.left_out == ("leftover",)
    assert "leftover" not in merge.sources


def test_the_size_told_before_is_what_the_weights_take(t5, tiny_checkpoint: Path, tmp_path: Path):
    tuned_over(t5, tmp_path / "adapter")
    folder = merged(tiny_checkpoint, tmp_path / "adapter", tmp_path / "merged", torch.bfloat16)

    told = Merge.of(checkpoint.find(str(tiny_checkpoint)), tmp_path / "adapter").size(torch.bfloat16)

    assert told == sum(tensor.nbytes for tensor in load_file(folder / WHOLE).values())


def changed_config(adapter: Path, **changes: Any) -> None:
    file = adapter / lora.ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "loftq"])
def test_an_adapter_over_a_changed_base_is_refused(t5, tiny_checkpoint: Path, tmp_path: Path, start: str):
    tuned_over(t5, tmp_path / "adapter")
    changed_config(tmp_path / "adapter", init_lora_weights=start)

    with pytest.raises(CheckpointError, match=f"init_lora_weights '{start}' changed the base's own weights"):
        Merge.of(checkpoint.find(str(tiny_checkpoint)), tmp_path / "adapter")


def test_an_adapter_on_a_head_that_is_shared_is_refused(tmp_path: Path):
    base = write_tiny_opt_checkpoint(tmp_path / "opt")
    tuned_over(load_tiny(base), tmp_path / "adapter", targets=["lm_head"])

    with pytest.raises(CheckpointError, match=r"tunes language_model\.lm_head\.weight, which this model shares with"):
        Merge.of(checkpoint.find(str(base)), tmp_path / "adapter")


def test_a_spoilt_adapter_is_refused_before_anything_is_written(t5, tiny_checkpoint: Path, tmp_path: Path):
    tuned_over(t5, tmp_path / "adapter")
    rewrite_tensors(
        tmp_path / "adapter" / lora.ADAPTER_WEIGHTS, lambda tensors: next(iter(tensors.values())).fill_(float("nan"))
    )

    with pytest.raises(CheckpointError, match="1 of its weights hold NaN or infinity"):
        Merge.of(checkpoint.find(str(tiny_checkpoint)), tmp_path / "adapter")


def test_an_adapter_that_lacks_a_weight_is_refused(t5, tiny_checkpoint: Path, tmp_path: Path):
    tuned_over(t5, tmp_path / "adapter")
    rewrite_tensors(tmp_path / "adapter" / lora.ADAPTER_WEIGHTS, lambda tensors: tensors.pop(next(iter(tensors))))

    with pytest.raises(CheckpointError, match=r"1 of the \d+ weights that adapter_config.json asks for are not in"):
        Merge.of(checkpoint.find(str(tiny_checkpoint)), tmp_path / "adapter")


def test_a_base_that_lacks_a_weight_is_refused(t5, tiny_checkpoint: Path, tmp_path: Path):
    tuned_over(t5, tmp_path / "adapter")
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    rewrite_tensors(base / WHOLE, lambda tensors: tensors.pop("qformer.layernorm.weight"))

    with pytest.raises(CheckpointError, match=r"qformer\.layernorm\.weight is in none of its files"):
        Merge.of(checkpoint.find(str(base)), tmp_path / "adapter")


def test_an_adapter_of_another_width_is_refused(t5, tmp_path: Path):
    tuned_over(t5, tmp_path / "adapter")
    other = write_tiny_checkpoint(tmp_path / "other", text_width=64)

    with pytest.raises(CheckpointError, match=r"do not fit their layers, .*lora_A.* first"):
        Merge.of(checkpoint.find(str(other)), tmp_path / "adapter")
