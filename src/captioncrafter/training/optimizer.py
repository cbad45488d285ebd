"""AdamW on the weights that train, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from captioncrafter import recipe


def adamw(parameters: Iterable[nn.Parameter], training: recipe.Training) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with decoupled weight decay on all of `parameters`, as one fused kernel."""
    return torch.optim.AdamW(
        list(parameters),
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=training.weight_decay,
        fused=True,
    )


def learning_rate(step: int, steps: int, training: recipe.Training) -> float:
    """The rate of step number `step` (from 0) of `steps`: a linear rise over the warm-up, then half a cosine to 0."""
    warmup_steps = math.ceil(training.warmup * steps)
    if step < warmup_steps:
        return training.learning_rate * (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def clipped(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales the gradients to a total norm of at most `max_norm`; gives the norm they had. Waits for no device."""
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def update_if(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """One step of the optimizer where `finite` is true, else none at all; decided on the device, without waiting.

    Fused optimizers leave weights, moments and step count alone where `found_inf` is 1 (torch.optim, the protocol of
    torch.amp.GradScaler).
    """
    optimizer.found_inf = (~finite).to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.grad_scale = None  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
