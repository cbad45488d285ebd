"""The cost of caption tokens without ever holding all of their logits.

A vocabulary of 32,128 makes the logits of a step larger than all its hidden states. Here they are made for a few
hundred positions at a time, and each piece's gradient is taken at once, so that the piece can go (the idea of Liger
Kernel's fused linear cross-entropy, Hsu et al. 2024, written with autograd so that an adapter on the head works too).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

_LOGIT_BYTES = 64 * 2**20
"""Largest piece of float32 logits held at once."""


def summed_cross_entropy(
    hidden: Float[Tensor, "target width"],
    head: nn.Module,
    targets: Int[Tensor, " target"],
    *,
    label_smoothing: float = 0.0,
    logit_bytes: int = _LOGIT_BYTES,
) -> Float[Tensor, ""]:
    """Summed negative log-likelihood, in nats, of `targets` under `head(hidden)`, in float32.

    Differentiable once with respect to `hidden` and the head's trainable weights. `logit_bytes` bounds the piece of
    logits in memory; the sum's order depends on it.
    """
    trainable = [weight for weight in head.parameters() if weight.requires_grad]
    rows = max(1, logit_bytes // (4 * _vocabulary(head)))

    def cost(piece: Tensor, wanted: Tensor) -> Tensor:
        logits = head(piece).float()
        return functional.cross_entropy(logits, wanted, reduction="sum", label_smoothing=label_smoothing)

    if not torch.is_grad_enabled() or not (hidden.requires_grad or trainable):
        pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.stack([cost(piece, wanted) for piece, wanted in pieces]).sum()
    total = _InPieces.apply(cost, rows, targets, hidden, *trainable)
    assert isinstance(total, Tensor)
    return total


def _vocabulary(head: nn.Module) -> int:
    return int(head.out_features)  # pyright: ignore[reportArgumentType] # a linear layer, maybe inside an adapter


class _InPieces(torch.autograd.Function):
    """Sums a cost over pieces of its input, keeping gradients instead of what the cost would save for them."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        cost: Callable[[Tensor, Tensor], Tensor],
        rows: int,
        targets: Tensor,
        hidden: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        of_hidden = torch.empty_like(hidden)
        of_weights = [torch.zeros_like(weight) for weight in weights]
        for start in range(0, len(hidden), rows):
            piece = hidden[start : start + rows].detach().requires_grad_()
            with torch.enable_grad():
                loss = cost(piece, targets[start : start + rows])
            gradients = torch.autograd.grad(loss, [piece, *weights])
            of_hidden[start : start + rows] = gradients[0]
            for sums, gradient in zip(of_weights, gradients[1:], strict=True):
                sums.add_(gradient)
            total += loss.detach()
        ctx.save_for_backward(of_hidden, *of_weights)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *outer: Tensor) -> tuple[Tensor | None, ...]:
        kept: Sequence[Tensor] = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        return None, None, None, *(gradient * outer[0] for gradient in kept)
