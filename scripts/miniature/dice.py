"""The dice of a training: for every step its own, which fall alike again after a stop."""

import torch


def seed_of(seed: int, step: int) -> int:
    """A seed for one step; two trainings of other seeds share none within ten million steps."""
    return seed * 10_000_019 + step


def drawn_for(seed: int, step: int) -> torch.Generator:
    """The dice of a step."""
    return torch.Generator().manual_seed(seed_of(seed, step))
