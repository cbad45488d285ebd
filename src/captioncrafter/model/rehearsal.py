"""What a computation would hold in memory and cost, found by running it on tensors without memory.

On torch's meta device an operation works out shapes and nothing else. Autograd records there what it records anywhere,
so running the real code once tells every byte that is alive at any moment, in seconds, whatever the model's size.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
# The CPU's fused attention is missing from torch's own list; its operands are those of the GPU's.
_flop_of = flop_registry | {
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}


class Rehearsal(TorchDispatchMode):
    """Counts while it is entered: bytes alive now, most bytes alive at once, floating-point operations.

    `apart` are tensors that were there before and are counted elsewhere.
    """

    def __init__(self, apart: Iterable[Tensor]) -> None:
        super().__init__()
        self.live_bytes, self.peak_bytes, self.flop = 0, 0, 0
        self._apart = {tensor.untyped_storage()._cdata for tensor in apart}
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs `func` and notes what it made."""
        del types
        if func is _aten._local_scalar_dense.default:
            # Code that looks at a value asks whether a mask is full; in a rehearsal every one is.
            return True
        result = func(*args, **(kwargs or {}))
        if (flop := _flop_of.get(func._overloadpacket)) is not None:
            self.flop += flop(*args, **(kwargs or {}), out_val=result)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.hold(tensor)
        return result

    def hold(self, tensor: Tensor) -> None:
        """Counts the memory behind `tensor`, once, until nothing refers to it any more."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes or key in self._apart:
            return
        self._sizes[key] = storage.nbytes()
        self.live_bytes += self._sizes[key]
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._let_go, key)

    def _let_go(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)


@contextmanager
def rehearsing(kernels: str, apart: Iterable[Tensor]) -> Iterator[Rehearsal]:
    """Within, what runs on the meta device is counted as on a device of type `kernels` (`cuda`, `cpu`).

    Attention and dropout are exchanged, in this process, for those that the device would choose: what they keep for
    backward differs.
    """
    attention, dropout = functional.scaled_dot_product_attention, functional.dropout
    # Not by a TorchFunctionMode: recomputing happens where none is active.
    if kernels == "cuda":
        functional.scaled_dot_product_attention, functional.dropout = _fused_attention, _fused_dropout
    elif kernels == "cpu":
        functional.scaled_dot_product_attention = partial(_cpu_attention, attention)
    try:
        with Rehearsal(apart) as counted:
            yield counted
    finally:
        functional.scaled_dot_product_attention, functional.dropout = attention, dropout


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Memory-efficient attention; flash attention, where it is chosen, keeps as much: the output, a number a query."""
    differentiated = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    found = _aten._scaled_dot_product_efficient_attention(
        query,
        key,
        value,
        _as_bias(options.get("attn_mask"), query),
        differentiated,
        options.get("dropout_p", 0.0),
        options.get("is_causal", False),
        scale=options.get("scale"),
    )
    return found[0]


def _cpu_attention(plain: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Flash attention for the CPU, which knows no dropout; else `plain`, which writes every weight out."""
    mask = options.get("attn_mask")
    if options.get("dropout_p", 0.0) > 0.0 or (mask is not None and mask.requires_grad):
        return plain(query, key, value, **options)
    found = _aten._scaled_dot_product_flash_attention_for_cpu(
        query,
        key,
        value,
        0.0,
        options.get("is_causal", False),
        attn_mask=_as_bias(mask, query),
        scale=options.get("scale"),
    )
    return found[0]


def _as_bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    return mask if mask is None or mask.dtype != torch.bool else torch.empty_like(mask, dtype=query.dtype)


def _fused_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """Keeps a byte for each number where the CPU keeps a number."""
    del inplace
    return torch.native_dropout(input, p, True)[0] if training and p else input
