"""AdamW on the LoRA weights, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from captioncrafter import recipe


def adamw(parameters: Iterable[nn.Parameter], training: recipe.Training) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with decoupled weight decay on all of `parameters`."""
    return torch.optim.AdamW(
        list(parameters),
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=training.weight_decay,
    )


def learning_rate(step: int, steps: int, training: recipe.Training) -> float:
    """The rate of step number `step` (from 0) of `steps`: a linear rise over the warm-up, then half a cosine to 0."""
    warmup_steps = math.ceil(training.warmup * steps)
    if step < warmup_steps:
        return training.learning_rate * (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
