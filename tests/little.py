"""The smallest thing that trains, for tests of what is kept of a training."""

from pathlib import Path

import torch
from torch import nn

from captioncrafter.training import checkpoint
from captioncrafter.training.checkpoint import Progress


class Little:
    """A layer that trains on what is a function of the step, as the loop does; weights and moments matter."""

    def __init__(self, *, width: int = 4, fused: bool = False) -> None:
        self.layer = nn.Linear(width, 3)
        self.parameters = dict(self.layer.named_parameters())
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.1, fused=fused)
        self.step = 0

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            torch.manual_seed(self.step)
            nn.functional.dropout(self.layer(torch.randn(2, 4)), 0.5).square().sum().backward()
            self.optimizer.step()
            self.step += 1

    def save(self, folder: Path, step: int, *, keep: int = 2, best_step: int | None = None) -> Path:
        progress = Progress(step, best_step=best_step)
        return checkpoint.save(folder, progress, self.parameters, self.optimizer, keep=keep)

    def restore(self, path: Path) -> Progress:
        progress = checkpoint.restore(path, self.parameters, self.optimizer)
        self.step = progress.step
        return progress
