"""The device and the precision that a machine is asked for, or the reason why it cannot."""

import pytest
import torch

from captioncrafter.errors import InputError
from captioncrafter.model.hardware import Arithmetic, arithmetic_for, compute_exactly, device_for

CPU = torch.device("cpu")


def test_auto_is_a_device_that_computes():
    assert torch.ones(2, device=device_for("auto")).sum() == 2


def test_a_named_device_is_taken():
    assert device_for("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_refused_with_the_way_out(name: str):
    with pytest.raises(InputError, match=f'model.device = "{name}": not usable here .* Use auto or cpu'):
        device_for(name)


def test_a_named_precision_is_taken():
    assert (arithmetic_for("fp32", CPU), arithmetic_for("bf16", CPU)) == (
        Arithmetic(torch.float32),
        Arithmetic(torch.bfloat16),
    )


def test_auto_is_never_float16():
    assert arithmetic_for("auto", CPU) in (Arithmetic(torch.float32), Arithmetic(torch.bfloat16))


def test_auto_is_float32_where_bfloat16_is_not_computed_in():
    assert arithmetic_for("auto", torch.device("meta")) == Arithmetic(torch.float32)


@pytest.mark.parametrize(
    ("device", "dtype", "left_on"),
    [("cuda", torch.float32, False), ("cuda", torch.bfloat16, True), ("cpu", torch.float32, True)],
)
def test_float32_on_a_gpu_keeps_its_convolutions_from_tf32(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, left_on: bool
):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    compute_exactly(Arithmetic(dtype), torch.device(device))

    assert torch.backends.cudnn.allow_tf32 is left_on
