"""Batches made ready beside the device: while one step computes, the tensors of the next are put together."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from captioncrafter.model.captioning import PackedCaptions
from captioncrafter.model.prompts import Prompts, stacked
from captioncrafter.training.batches import Schedule, TrainingImages
from captioncrafter.training.packing import pack


@runtime_checkable
class FeatureSource(Protocol):
    """Gives what the model starts from: stored features, or pixels where nothing is stored."""

    def __call__(self, images: Sequence[int], *, step: int) -> Tensor:
        """One row for each image, by its position in the training images; `step` may vary what it looks like."""
        ...


@dataclass(frozen=True)
class Batch:
    """Images that are computed at once; `first` is where in its step the first of them stands."""

    first: int
    features: Tensor
    prompts: Prompts
    captions: PackedCaptions

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        features = self.features.to(device, non_blocking=True)
        return Batch(self.first, features, self.prompts.to(device), self.captions.to(device))


class Feed:
    """The batches of any step; those of the step after it are begun at once, in a thread."""

    def __init__(
        self, images: TrainingImages, schedule: Schedule, source: FeatureSource, config: Any, *, pinned: bool
    ) -> None:
        self.images, self.schedule, self.source, self.config, self.pinned = images, schedule, source, config, pinned
        # A thread has OpenMP threads of its own, which would wait for cores against those of the step: on two cores a
        # step of the miniature took 174 ms so, and 95 ms with one.
        self._pool = ThreadPoolExecutor(max_workers=1, initializer=torch.set_num_threads, initargs=(1,))
        self._ahead: dict[tuple[int, int, int, int, int], Future[list[Batch]]] = {}

    def batches(self, step: int, size: int, *, halvings: int = 0, rank: int = 0, world: int = 1) -> list[Batch]:
        """The step's images, `size` at once; of these batches every `world`-th, from number `rank` on.

        Each of them is divided in two `halvings` times: which images a process has does not depend on it.
        """
        wanted = (step, size, halvings, rank, world)
        ready = self._ahead.pop(wanted, None)
        self._ahead.clear()
        batches = ready.result() if ready else self._made(*wanted)
        if step + 1 < self.schedule.steps:
            following = (step + 1, *wanted[1:])
            self._ahead[following] = self._pool.submit(self._made, *following)
        return batches

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _made(self, step: int, size: int, halvings: int, rank: int, world: int) -> list[Batch]:
        chosen = self.schedule.images_of(step)
        mine = list(range(0, len(chosen), size))[rank::world]
        part = max(1, size >> halvings)
        spans = [(at, min(at + part, start + size)) for start in mine for at in range(start, start + size, part)]
        return [self._batch(step, at, chosen[at:end]) for at, end in spans if at < len(chosen)]

    def _batch(self, step: int, first: int, chosen: Sequence[int]) -> Batch:
        pad_id = self.config.text_config.pad_token_id
        prompts = stacked([self.images.prompts[image] for image in chosen], pad_id=pad_id)
        captions = pack([self.images.captions[image] for image in chosen], self.config, prompts)
        features = self.source(chosen, step=step)
        if self.pinned:
            features, prompts, captions = features.pin_memory(), prompts.pinned(), captions.pinned()
        return Batch(first, features, prompts, captions)
