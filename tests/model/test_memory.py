"""A model by its configuration alone, and rehearsals on tensors without memory."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from captioncrafter import recipe
from captioncrafter.model import checkpoint, lora, memory
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.loading import load_model
from captioncrafter.model.rehearsal import Rehearsal, rehearsing
from middling import write_middling_checkpoint
from tiny import load_tiny, write_tiny_opt_checkpoint

FP32 = Arithmetic(torch.float32)


@pytest.fixture(scope="module")
def mid_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_middling_checkpoint(tmp_path_factory.mktemp("mid") / "mid")


def test_the_published_model_has_its_known_parameters_by_part(published_files: Path):
    config = checkpoint.load_config(checkpoint.find(str(published_files)))

    parts = memory.parts_of(memory.meta_model(config, torch.bfloat16), Arithmetic(torch.bfloat16))

    millions = {part.name: part.parameters / 1e6 for part in parts}
    assert sum(millions.values()) == pytest.approx(3942.4, abs=0.1)
    assert millions["vision_model"] == pytest.approx(986.0, abs=0.1)
    assert millions["qformer"] == pytest.approx(105.2, abs=0.1)
    assert millions["language_projection"] == pytest.approx(1.6, abs=0.05)
    language_model = sum(count for name, count in millions.items() if name.startswith("language_model"))
    assert language_model == pytest.approx(2849.8, abs=0.1)
    assert sum(part.bytes for part in parts) == 2 * sum(part.parameters for part in parts)


@pytest.mark.parametrize("write", [None, write_tiny_opt_checkpoint])
def test_the_parts_are_those_of_the_loaded_model(write, tiny_checkpoint: Path, tmp_path: Path):
    found, _, model = load_tiny(write(tmp_path / "opt") if write else tiny_checkpoint)

    parts = memory.parts_of(memory.meta_model(checkpoint.load_config(found), torch.float32), FP32)

    assert sum(part.parameters for part in parts) == sum(parameter.numel() for parameter in model.parameters())


def test_an_adapter_adds_nothing_to_the_base(tiny_checkpoint: Path):
    config = checkpoint.load_config(checkpoint.find(str(tiny_checkpoint)))
    model = memory.meta_model(config, torch.float32)
    before = memory.parts_of(model, FP32)

    tuned = memory.attached(model, recipe.Lora(init="pissa", preset="full-bridge"))

    assert memory.parts_of(model, FP32) == before
    assert all(parameter.is_meta for parameter in tuned.parameters())
    assert lora.trainable(tuned)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_weights_take_what_bitsandbytes_makes_of_them(kind, mid_checkpoint: Path):
    pytest.importorskip("bitsandbytes")
    found, arithmetic = checkpoint.find(str(mid_checkpoint)), Arithmetic(torch.bfloat16, kind)

    model = load_model(found, arithmetic=arithmetic, device=torch.device("cpu"))
    parts = memory.parts_of(memory.meta_model(checkpoint.load_config(found), torch.bfloat16), arithmetic)

    assert sum(part.bytes for part in parts) == pytest.approx(sum(map(_held_bytes, model.parameters())), rel=0.01)


def _held_bytes(parameter) -> int:
    held = parameter.numel() * parameter.element_size()
    if (scales := getattr(parameter, "SCB", None)) is not None:
        held += scales.numel() * 4
    if (state := getattr(parameter, "quant_state", None)) is not None:
        held += state.absmax.numel() * state.absmax.element_size() + state.state2.absmax.numel() * 4
    return held


def test_a_rehearsal_counts_what_is_alive_at_once():
    with Rehearsal([]) as counted:
        first = torch.empty(100, device="meta")
        second = first + 1
        view = second.view(10, 10)
        del first, second
        third = view.double()

    assert counted.peak_bytes == 400 + 800
    assert counted.live_bytes == 400 + 800
    del view, third
    assert counted.live_bytes == 0


def test_a_rehearsal_leaves_out_what_was_there_before():
    weight = torch.empty(50, 50, device="meta", requires_grad=True)

    with Rehearsal([weight]) as counted:
        weight.t().sum()

    assert counted.peak_bytes == 4


def test_a_rehearsal_counts_the_operations_of_a_product():
    with Rehearsal([]) as counted:
        _ = torch.empty(3, 5, device="meta") @ torch.empty(5, 7, device="meta")

    assert counted.flop == 2 * 3 * 5 * 7


def test_a_gpu_keeps_no_attention_weights_and_bytes_for_dropout():
    def kept(kernels: str) -> int:
        query = torch.empty(2, 4, 64, 8, device="meta", requires_grad=True)
        with rehearsing(kernels, [query]) as counted:
            attended = functional.scaled_dot_product_attention(query, query, query, dropout_p=0.1)
            loss = functional.dropout(attended, 0.1).sum()
        del attended, loss
        return counted.peak_bytes

    assert kept("cuda") * 4 < kept("cpu")


def test_rehearsing_gives_torchs_own_functions_back():
    before = (functional.scaled_dot_product_attention, functional.dropout)

    with pytest.raises(ZeroDivisionError), rehearsing("cuda", []):
        _ = 1 / 0

    assert (functional.scaled_dot_product_attention, functional.dropout) == before
