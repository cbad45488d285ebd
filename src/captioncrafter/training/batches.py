"""Which images stand in which step: a function of the seed and the step alone, so that a run can go on anywhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from captioncrafter.model.prompts import Prompt
from captioncrafter.training.packing import TokenIds

_WINDOW_IMAGES = 128
"""Images among which those of like length are put together: enough for little padding, few enough to stay shuffled."""


@dataclass(frozen=True)
class TrainingImages:
    """What training reads of each image: its id, the token ids of its captions, the prompt they answer."""

    names: Sequence[str]
    captions: Sequence[Sequence[TokenIds]]
    prompts: Sequence[Prompt]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The caption tokens of each image."""
        return tuple(sum(map(len, captions)) for captions in self.captions)


@dataclass(frozen=True)
class Schedule:
    """The order of a whole run: every epoch a fresh permutation, its last step smaller when images do not divide.

    Within windows of some steps, images of like `lengths` (in tokens) share a step, and the steps are shuffled again:
    less padding, the same images an epoch.
    """

    lengths: tuple[int, ...]
    images_per_step: int
    epochs: float
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the images."""
        return math.ceil(len(self.lengths) / self.images_per_step)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return max(1, math.ceil(self.epochs * self.steps_per_epoch))

    def epoch_after(self, step: int) -> float:
        """Passes done once `step` steps are."""
        return step / self.steps_per_epoch

    def images_of(self, step: int) -> list[int]:
        """Positions of the images behind step number `step`, counted from 0, the one with most tokens first."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return _epoch(self, epoch)[within]


@lru_cache(maxsize=2)
def _epoch(schedule: Schedule, epoch: int) -> list[list[int]]:
    """The images of each step of one epoch."""
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + epoch)
    order = torch.randperm(len(schedule.lengths), generator=generator).tolist()
    size = schedule.images_per_step
    window = size * max(1, _WINDOW_IMAGES // size)
    steps: list[list[int]] = []
    for start in range(0, len(order), window):
        images = sorted(order[start : start + window], key=lambda image: schedule.lengths[image], reverse=True)
        groups = [images[at : at + size] for at in range(0, len(images), size)]
        whole = len(groups) - (len(groups[-1]) < size)
        shuffled = torch.randperm(whole, generator=generator).tolist()
        steps += [groups[group] for group in shuffled] + groups[whole:]
    return steps
