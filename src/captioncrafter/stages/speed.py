"""How long phases take on a device: their operations against what a moment's measurement says it can do."""

import time
from dataclasses import dataclass

import torch

from captioncrafter.model.hardware import Arithmetic

_MEASURED_S = 0.4
_SIDE = {"cpu": 1024, "cuda": 8192}
_USUAL_SIDE = 2048

# Shares of the rate of one large matrix product. One thread of an EPYC, the mid-size model of benchmarks/training.py:
# training and extraction 0.3 to 0.5, beam search 0.1 to 0.2, most of it in transformers' own bookkeeping.
UTILISATION = 0.4
DECODING_UTILISATION = 0.15
DECODED_IMAGES_PER_S = 220
"""A 500 x 375 JPEG to 224 pixels by the stock processor, beside the model, on one core."""


@dataclass(frozen=True)
class Times:
    """Seconds: features of all images, one epoch, one validation, the whole run; and the rate they rest on."""

    cache_s: float
    epoch_s: float
    validation_s: float
    run_s: float
    matrix_flop_per_s: float


@torch.no_grad()
def matrix_rate(device: torch.device, arithmetic: Arithmetic) -> float:
    """Floating-point operations a second of a large matrix product in the arithmetic's type, measured now."""
    side = _SIDE.get(device.type, _USUAL_SIDE)
    # Drawn: of ones a GPU's product takes less power, and so less time, than of anything that a model holds.
    generator = torch.Generator(device).manual_seed(0)
    left = torch.randn(side, side, generator=generator, dtype=arithmetic.dtype, device=device)
    _finish(left @ left)
    started, products = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < _MEASURED_S:
        _finish(left @ left)
        products += 1
    return products * 2 * side**3 / elapsed


def _finish(product: torch.Tensor) -> None:
    product[0, 0].item()
