"""Which images stand in which step: a function of the seed and the step alone, so that a run can go on anywhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from captioncrafter.training.packing import TokenIds


@dataclass(frozen=True)
class TrainingImages:
    """What training reads: for each image its id, the key of its features and the token ids of its captions."""

    names: Sequence[str]
    features: Sequence[str]
    captions: Sequence[Sequence[TokenIds]]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Schedule:
    """The order of a whole run: every epoch a fresh permutation, its last step smaller when images do not divide."""

    images: int
    images_per_step: int
    epochs: float
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the images."""
        return math.ceil(self.images / self.images_per_step)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return max(1, math.ceil(self.epochs * self.steps_per_epoch))

    def epoch_after(self, step: int) -> float:
        """Passes done once `step` steps are."""
        return step / self.steps_per_epoch

    def images_of(self, step: int) -> list[int]:
        """Positions of the images behind step number `step`, counted from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.images, generator=generator)
        return order[within * self.images_per_step : (within + 1) * self.images_per_step].tolist()
