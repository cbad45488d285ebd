"""The ways to train that are compared: the loop of public repositories, that loop with one idea more each time, ours.

All of them have the same dropout, the same LoRA, the same captions a step, and their next batch made in a thread.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from _subject import CAPTIONS_PER_IMAGE, Stored, Subject
from captioncrafter.features.extract import pixel_values
from captioncrafter.model.prefix import context_of
from captioncrafter.model.prompts import stacked
from captioncrafter.model.stock import Tuned
from captioncrafter.recipe import Recipe
from captioncrafter.training.batches import Schedule
from captioncrafter.training.feed import Feed
from captioncrafter.training.mode import training_mode
from captioncrafter.training.processes import Processes
from captioncrafter.training.step import Stepper

IGNORE = -100
_PADDED_TO = 32

Pair = tuple[int, int]
"""An image and one of its captions, by number."""


class Contestant(Protocol):
    """A way to train."""

    tuned: Tuned
    captions_per_run: int

    def run(self) -> None:
        """Some steps, `captions_per_run` captions in all."""
        ...

    def loss(self, images: Sequence[int]) -> Tensor:
        """The mean loss of a caption token over all captions of `images`, in nats."""
        ...

    def restart(self) -> None:
        """Dropout is on again, and no gradients are left."""
        ...


@dataclass(frozen=True)
class PairBatch:
    """Pixels or stored features of some images, and labels of their captions, one caption a row."""

    inputs: Tensor
    labels: Tensor


class PairLoop:
    """The loop that public repositories have: one image-caption pair a sample, the stock model, AdamW.

    `tuned` is the whole model, and samples are decoded in every step, unless `half` says where features are. `trimmed`
    pads labels to the longest instead of to 32. `shared` takes all captions of an image together, and runs what comes
    before the decoder once for them.
    """

    def __init__(
        self, subject: Subject, dtype: torch.dtype, *, cached: bool = False, trimmed: bool = False, shared: bool = False
    ) -> None:
        self.subject, self.trimmed, self.shared = subject, trimmed, shared
        self.half = subject.half(dtype) if cached else None
        self.tuned = self.half.tuned if self.half else subject.whole(dtype)
        self.options = subject.options("efficient")
        training = self.options.training
        self.parameters = [weight for weight in self.tuned.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self.captions_per_run = subject.size.images_per_step * CAPTIONS_PER_IMAGE
        self._draw = torch.Generator().manual_seed(0)
        self._loaders = ThreadPoolExecutor(torch.get_num_threads())
        self._pool = ThreadPoolExecutor(1)
        self._ahead = self._begun()

    def run(self) -> None:
        """One step; the batch of the next is ready when it returns."""
        batch = self._ahead.result()
        self._ahead = self._begun()
        self.optimizer.zero_grad()
        self._loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.options.training.max_grad_norm)
        self.optimizer.step()
        self._ahead.result()

    def loss(self, images: Sequence[int]) -> Tensor:
        """The mean loss of a caption token over all captions of `images`, in nats."""
        return self._loss(self._batch(_all_pairs(images)))

    def restart(self) -> None:
        """Dropout is on again, and no gradients are left."""
        _restart(self.tuned, self.options)

    def _begun(self) -> "Future[PairBatch]":
        images, step = len(self.subject.jpegs), self.subject.size.images_per_step
        order = torch.randperm(images, generator=self._draw).tolist()
        if self.shared:
            return self._pool.submit(self._batch, _all_pairs(order[:step]))
        chosen = torch.randint(CAPTIONS_PER_IMAGE, (self.captions_per_run,), generator=self._draw).tolist()
        return self._pool.submit(self._batch, list(zip(order, chosen, strict=False)))

    def _batch(self, pairs: Sequence[Pair]) -> PairBatch:
        captions = [self.subject.captions[image][caption] for image, caption in pairs]
        length = max(map(len, captions)) if self.trimmed else _PADDED_TO
        labels = torch.tensor([ids + [IGNORE] * (length - len(ids)) for ids in captions])
        images = [image for image, _ in pairs]
        if self.half:
            return PairBatch(self.half.store.rows([str(image) for image in _rows(images, shared=self.shared)]), labels)
        return PairBatch(torch.cat(list(self._loaders.map(self._pixels, images))), labels)

    def _pixels(self, image: int) -> Tensor:
        return pixel_values(self.subject.processor, [self.subject.decoder(image)()])

    def _loss(self, batch: PairBatch) -> Tensor:
        inputs, labels = batch.inputs.to(self.subject.device), batch.labels.to(self.subject.device)
        if not self.half:
            ids = self.subject.prompt.input_ids.to(inputs.device).expand(len(inputs), -1)
            return self.tuned(
                pixel_values=inputs, input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels
            ).loss
        from transformers.modeling_outputs import BaseModelOutput

        model = self.tuned.get_base_model()
        prompts = stacked([self.subject.prompt] * len(inputs), pad_id=0).to(inputs.device)
        context = context_of(model, inputs, self.half.cut, prompts)
        times = len(labels) // len(inputs)
        return model.language_model(
            encoder_outputs=BaseModelOutput(context.states.repeat_interleave(times, dim=0)),  # pyright: ignore[reportArgumentType]
            attention_mask=context.mask.repeat_interleave(times, dim=0),
            labels=labels,
        ).loss


def _all_pairs(images: Sequence[int]) -> list[Pair]:
    return [(image, caption) for image in images for caption in range(CAPTIONS_PER_IMAGE)]


def _rows(images: list[int], *, shared: bool) -> list[int]:
    return list(dict.fromkeys(images)) if shared else images


class Packed:
    """CaptionCrafter's own step on its own batches, read from its own store; one run is an epoch."""

    def __init__(
        self, subject: Subject, dtype: torch.dtype, preset: str = "efficient", *, checkpointing: bool = False
    ) -> None:
        half = subject.half(dtype, preset, checkpointing=checkpointing)
        self.tuned, self.options, images = half.tuned, half.options, subject.images
        options = self.options
        schedule = Schedule(images.lengths, options.training.images_per_step, epochs=10_000, seed=options.seed)
        config = self.tuned.get_base_model().config
        pinned = subject.device.type == "cuda"
        self.feed = Feed(images, schedule, Stored(half.store), config, pinned=pinned)
        self.stepper = Stepper(self.tuned, half.cut, self.feed, options, subject.device, Processes(subject.device))
        self.rate = options.training.learning_rate
        self.steps_per_run = schedule.steps_per_epoch
        self.captions_per_run = len(images) * CAPTIONS_PER_IMAGE
        self._steps = count()

    def run(self) -> None:
        """One epoch."""
        for _ in range(self.steps_per_run):
            self.stepper.update(next(self._steps), self.rate)

    def first_images(self) -> list[int]:
        """The images of the first step."""
        return self.feed.schedule.images_of(0)

    def loss(self, images: Sequence[int]) -> Tensor:
        """The mean loss of a caption token over all captions of the first step, whose `images` these must be."""
        assert list(images) == self.first_images()
        (batch,) = self.feed.batches(0, len(images))
        return self.stepper.loss_of(batch.to(self.stepper.device)) / len(batch.captions.targets)

    def restart(self) -> None:
        """Dropout is on again, and no gradients are left."""
        _restart(self.tuned, self.options)


def _restart(tuned: Tuned, options: Recipe) -> None:
    training_mode(tuned, options.training)
    tuned.zero_grad()


FP32, BF16 = torch.float32, torch.bfloat16
NAIVE, NAIVE_BF16 = "naive, fp32", "naive, bf16"
OURS, OURS_BF16 = "ours: + packed, fp32", "ours: + bf16"
DECODER_ONLY = "ours: + decoder only, bf16"
CHECKPOINTED = "ours: bf16, checkpointed"


def contestants(subject: Subject, *, bf16: bool) -> dict[str, Callable[[], Contestant]]:
    """How to make each contestant, in order; those in bfloat16 only where it is arithmetic of the machine."""
    made: dict[str, Callable[[], Contestant]] = {
        NAIVE: lambda: PairLoop(subject, FP32),
        "+ features cached": lambda: PairLoop(subject, FP32, cached=True),
        "+ padding trimmed": lambda: PairLoop(subject, FP32, cached=True, trimmed=True),
        "+ encoder once an image": lambda: PairLoop(subject, FP32, cached=True, trimmed=True, shared=True),
        OURS: lambda: Packed(subject, FP32),
    }
    if bf16:
        made |= {
            OURS_BF16: lambda: Packed(subject, BF16),
            DECODER_ONLY: lambda: Packed(subject, BF16, "fast"),
            NAIVE_BF16: lambda: PairLoop(subject, BF16),
        }
    if bf16 and subject.device.type == "cuda":
        made[CHECKPOINTED] = lambda: Packed(subject, BF16, checkpointing=True)
    return made
