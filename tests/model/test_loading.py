"""A checkpoint is loaded whole or in parts, in the precision asked for."""

import gc
import logging
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from captioncrafter import recipe
from captioncrafter.errors import CheckpointError, InputError
from captioncrafter.model import checkpoint, lora
from captioncrafter.model.captioning import caption_loss
from captioncrafter.model.cut import Cut, parts_after, parts_before
from captioncrafter.model.hardware import Arithmetic, arithmetic_for
from captioncrafter.model.loading import load_model
from captioncrafter.model.prefix import context_of
from captioncrafter.model.prompts import encode_prompt, stacked
from captioncrafter.training.packing import encode_captions, pack
from tiny import captions_of_picture, load_tiny, rewrite_tensors, write_tiny_checkpoint, write_tiny_opt_checkpoint

CPU = torch.device("cpu")
FP32 = Arithmetic(torch.float32)
PROJECTION = ("language_projection",)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose language model is as wide as bitsandbytes needs it."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("wide") / "tiny", text_width=128)


@pytest.fixture
def level() -> Iterator[logging.Logger]:
    """The logger of bitsandbytes, for which nobody has set a level yet."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.NOTSET)
    yield logger
    logger.setLevel(before)


@pytest.mark.parametrize("write", [write_tiny_checkpoint, write_tiny_opt_checkpoint])
@pytest.mark.parametrize("cut", [Cut.VISION, Cut.QFORMER, Cut.PROJECTION, Cut.ENCODER])
@pytest.mark.parametrize("half", ["before", "after"])
def test_a_part_is_what_the_whole_has_there_and_the_rest_is_not_in_memory(write, cut: Cut, half: str, tmp_path: Path):
    found = checkpoint.find(str(write(tmp_path / "tiny")))
    config = checkpoint.load_config(found)
    if cut is Cut.ENCODER and config.use_decoder_only_language_model:
        cut = Cut.QFORMER
    parts = parts_after(config, cut) if half == "after" else (*parts_before(cut), *PROJECTION)
    whole = load_model(found, arithmetic=FP32, device=CPU)

    part = load_model(found, arithmetic=FP32, device=CPU, parts=parts)

    held = {name: p for name, p in part.named_parameters() if not p.is_meta}
    wanted = {name for name, _ in whole.named_parameters() if name.startswith(tuple(parts))}
    embeddings = {"language_model.shared.weight", "language_model.lm_head.weight"}
    assert wanted <= held.keys() <= wanted | embeddings
    assert all(torch.equal(parameter, whole.get_parameter(name)) for name, parameter in held.items())
    assert not any(buffer.is_meta for buffer in part.buffers())
    assert not any(hasattr(module, "_hf_hook") for module in part.modules())


def test_the_head_of_a_part_is_the_checkpoints_own(tiny_checkpoint: Path):
    found = checkpoint.find(str(tiny_checkpoint))
    parts = parts_after(checkpoint.load_config(found), Cut.ENCODER)

    part = load_model(found, arithmetic=FP32, device=CPU, parts=parts)

    head, embedding = part.get_output_embeddings().weight, part.get_input_embeddings().weight
    assert not torch.equal(head, embedding)
    assert part.language_model.decoder.embed_tokens.weight.data_ptr() == embedding.data_ptr()


def test_a_weight_that_is_missing_elsewhere_does_not_matter_to_a_part(tmp_path: Path):
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    gone = "vision_model.post_layernorm.weight"
    rewrite_tensors(folder / "model.safetensors", lambda tensors: tensors.pop(gone))
    found = checkpoint.find(str(folder))

    load_model(found, arithmetic=FP32, device=CPU, parts=PROJECTION)

    with pytest.raises(CheckpointError, match=f"{gone} first"):
        load_model(found, arithmetic=FP32, device=CPU, parts=("vision_model",))


def test_a_stack_brings_the_embedding_that_it_reads(tiny_checkpoint: Path):
    found = checkpoint.find(str(tiny_checkpoint))

    part = load_model(found, arithmetic=FP32, device=CPU, parts=("language_model.decoder",))

    assert not part.language_model.decoder.embed_tokens.weight.is_meta
    assert part.language_model.encoder.final_layer_norm.weight.is_meta


@pytest.mark.parametrize(
    ("write", "part", "known"),
    [
        (write_tiny_checkpoint, "vision", "vision_model, qformer"),
        (write_tiny_checkpoint, "vision_model.encoder", "vision_model, qformer"),
        (write_tiny_checkpoint, "language_model.decoder.block", "language_model.decoder, language_model.lm_head"),
        (write_tiny_opt_checkpoint, "language_model.model.decoder", "language_model, query_tokens"),
    ],
)
def test_a_part_that_is_none_is_refused_with_those_there_are(write, part: str, known: str, tmp_path: Path):
    found = checkpoint.find(str(write(tmp_path / "tiny")))

    with pytest.raises(ValueError, match=rf"called {part};.* {known}"):
        load_model(found, arithmetic=FP32, device=CPU, parts=("qformer", part))


def test_a_part_that_is_let_go_leaves_the_memory_at_once(tiny_checkpoint: Path):
    part = load_model(checkpoint.find(str(tiny_checkpoint)), arithmetic=FP32, device=CPU, parts=("vision_model",))
    weight = weakref.ref(part.vision_model.post_layernorm.weight)
    gc.disable()

    try:
        del part
        assert weight() is None
    finally:
        gc.enable()


_LOAD = """
import re, sys, torch
from pathlib import Path
from captioncrafter.model import checkpoint
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.loading import load_model
found = checkpoint.find(sys.argv[1])
parts = sys.argv[2].split(",") if sys.argv[2] else None
def peak_kb():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
load_model(found, arithmetic=Arithmetic(torch.bfloat16), device=torch.device("cpu"), parts=["language_projection"])
before = peak_kb()
load_model(found, arithmetic=Arithmetic(torch.bfloat16), device=torch.device("cpu"), parts=parts)
print((peak_kb() - before) // 1024)
"""


def test_loading_a_part_never_holds_the_rest(tmp_path: Path):
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc to measure a process's peak memory")
    folder = write_tiny_checkpoint(tmp_path / "tiny", vision_width=1536)  # 230 MB, nearly all of it the vision half

    def peak_mb(parts: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(folder), parts], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert peak_mb("language_model.shared,language_model.decoder,language_model.lm_head") < peak_mb("") / 3


def loss_of(model: nn.Module, folder: Path) -> torch.Tensor:
    processor = checkpoint.load_processor(checkpoint.find(str(folder)))
    prompts = stacked([encode_prompt(processor, "a photo of")] * 2, pad_id=0)
    captions = [
        encode_captions(processor.tokenizer, captions_of_picture(n), model.config, prompt="", max_tokens=32)[0]
        for n in range(2)
    ]
    features = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    context = context_of(model, features, Cut.QFORMER, prompts)
    return caption_loss(model, context, pack(captions, model.config, prompts))


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_quantised_language_model_costs_about_the_same_and_trains(wide: Path, precision: recipe.Precision):
    found = checkpoint.find(str(wide))
    plain = loss_of(load_tiny(wide)[2], wide)
    parts = parts_after(checkpoint.load_config(found), Cut.QFORMER)

    model = load_model(found, arithmetic=arithmetic_for(precision, CPU), device=CPU, parts=parts)
    quantised = loss_of(model, wide)
    tuned = lora.attach(model, recipe.Lora(), seed=0)
    loss_of(tuned.get_base_model(), wide).backward()

    layer = model.language_model.decoder.block[0].layer[0].SelfAttention.q
    assert type(layer.get_base_layer()).__module__.startswith("bitsandbytes")
    assert torch.isclose(quantised, plain, rtol={"int8": 0.05, "nf4": 0.2}[precision])
    weights = lora.trainable(tuned)
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert all(weight.grad.norm() > 0 for name, weight in weights.items() if ".lora_B." in name)


def test_a_quantised_model_is_silent(wide: Path, caplog: pytest.LogCaptureFixture, level: logging.Logger):
    model = load_model(checkpoint.find(str(wide)), arithmetic=arithmetic_for("int8", CPU), device=CPU)

    loss_of(model, wide)

    assert [record.getMessage() for record in caplog.records if record.name.startswith("bitsandbytes")] == []


def test_a_level_that_was_set_for_bitsandbytes_stays(tiny_checkpoint: Path, level: logging.Logger):
    level.setLevel(logging.INFO)

    load_tiny(tiny_checkpoint)

    assert level.level == logging.INFO


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_quantised_decoder_loads_without_its_encoder(wide: Path, precision: recipe.Precision):
    found = checkpoint.find(str(wide))
    parts = parts_after(checkpoint.load_config(found), Cut.ENCODER)

    model = load_model(found, arithmetic=arithmetic_for(precision, CPU), device=CPU, parts=parts)

    whole = load_model(found, arithmetic=arithmetic_for(precision, CPU), device=CPU)
    decoder = dict(model.language_model.decoder.named_parameters())
    assert type(model.language_model.decoder.block[0].layer[0].SelfAttention.q).__module__.startswith("bitsandbytes")
    assert all(torch.equal(decoder[name], p) for name, p in whole.language_model.decoder.named_parameters())
    assert all(p.is_meta for p in model.language_model.encoder.block.parameters())


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_the_image_half_of_a_quantised_model_is_that_of_the_plain_one(wide: Path, precision: recipe.Precision):
    found = checkpoint.find(str(wide))
    parts = (*parts_before(Cut.PROJECTION), *PROJECTION)
    arithmetic = arithmetic_for(precision, CPU)
    plain = load_model(found, arithmetic=Arithmetic(arithmetic.dtype), device=CPU, parts=parts)

    model = load_model(found, arithmetic=arithmetic, device=CPU, parts=parts)

    held = {name: parameter for name, parameter in model.named_parameters() if not parameter.is_meta}
    assert not getattr(model, "is_quantized", False)
    assert held.keys() == {name for name, parameter in plain.named_parameters() if not parameter.is_meta}
    assert all(torch.equal(parameter, plain.get_parameter(name)) for name, parameter in held.items())


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_head_and_projection_are_not_quantised(wide: Path, precision: recipe.Precision):
    model = load_model(checkpoint.find(str(wide)), arithmetic=arithmetic_for(precision, CPU), device=CPU)

    kept = (model.get_output_embeddings(), model.language_projection, model.qformer, model.vision_model)
    assert all(weight.is_floating_point() for part in kept for weight in part.parameters())


def test_quantisation_without_bitsandbytes_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(InputError, match=r'needs bitsandbytes: pip install "captioncrafter\[quant\]"'):
        arithmetic_for("nf4", CPU)


def test_attention_masks_with_booleans(tiny_checkpoint: Path):
    model = load_tiny(tiny_checkpoint)[2]

    assert model.language_model.config._attn_implementation == "sdpa"
