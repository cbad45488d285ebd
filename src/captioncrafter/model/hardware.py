"""Which device computes, and in which precision."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Arithmetic:
    """How the frozen weights are held and computed with: in `dtype`, the language model's layers maybe quantised."""

    dtype: torch.dtype
    quantised: Literal["int8", "nf4"] | None = None

    @property
    def name(self) -> str:
        """What manifests and cards call it: bfloat16, float32, int8, nf4."""
        return self.quantised or str(self.dtype).removeprefix("torch.")


def arithmetic_for(precision: Precision, device: torch.device) -> Arithmetic:
    """How to compute on `device`: `auto` is bfloat16 where it has that, else float32; int8 and nf4 compute in the same.

    Never float16: T5 overflows in it (NaN from the first feed-forward, transformers#9295). Raises `InputError` when
    quantisation is asked for and bitsandbytes is not installed.
    """
    plain = torch.bfloat16 if _computes_bf16(device) else torch.float32
    if precision in ("int8", "nf4"):
        if importlib.util.find_spec("bitsandbytes") is None:
            raise InputError(
                f'model.precision = "{precision}" needs bitsandbytes: pip install "captioncrafter[quant]", or take '
                "bf16 or fp32."
            )
        return Arithmetic(plain, precision)
    return Arithmetic({"auto": plain, "bf16": torch.bfloat16, "fp32": torch.float32}[precision])


def compute_exactly(arithmetic: Arithmetic, device: torch.device) -> None:
    """Keeps cuDNN from computing float32 convolutions in TF32, 10 bits of mantissa for 23, as it does by default.

    For this process, where `arithmetic` is float32 on a GPU: matrix products are whole by torch's own default.
    """
    if device.type == "cuda" and arithmetic.dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))
    return False
