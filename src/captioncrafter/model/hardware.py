"""Which device computes, and in which precision."""

import torch

from captioncrafter.errors import InputError
from captioncrafter.recipe import Precision


def device_for(name: str) -> torch.device:
    """The device called `name`; `auto` is the accelerator where there is one, else the CPU.

    Raises `InputError` when the machine has no such device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'model.device = "{name}": not usable here ({reason}). Use auto or cpu.') from None
    return device


def dtype_for(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of the frozen weights: `auto` is bfloat16 where `device` computes in it, else float32.

    Never float16: T5 overflows in it (NaN from the first feed-forward, transformers#9295).
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16" or _computes_bf16(device):
        return torch.bfloat16
    return torch.float32


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))
    return False
