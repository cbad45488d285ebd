"""One update of the weights: batches forward and backward, gradients summed over processes, clipped, applied.

How the step is divided changes which units dropout leaves out, drawn from the seed, the step and the batch's place in
it, and nothing else: every batch's loss is a sum, and the sum is divided by the caption tokens of the whole step.
Nothing here waits for the device unless it runs out of memory.
"""

import gc
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from captioncrafter import events, recipe
from captioncrafter.errors import CaptionCrafterError, counted
from captioncrafter.model import lora
from captioncrafter.model.captioning import caption_loss
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import context_of
from captioncrafter.model.stock import Tuned
from captioncrafter.training import optimizer
from captioncrafter.training.arriving import Arriving
from captioncrafter.training.feed import Batch, Feed
from captioncrafter.training.processes import Processes

_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Update:
    """What one step came to; whoever asks for its figures waits until the device has done that step."""

    step: int
    tokens: int
    captions: int
    figures: Arriving

    @property
    def loss(self) -> float:
        """The summed loss, in nats."""
        return self.figures.read()[0]

    @property
    def norm(self) -> float:
        """The gradient's norm before clipping."""
        return self.figures.read()[1]

    @property
    def finite(self) -> bool:
        """Whether both are finite."""
        return self.figures.read()[2] == 1.0


class Stepper:
    """Owns the optimizer and how many images are computed at once."""

    def __init__(
        self, tuned: Tuned, cut: Cut, feed: Feed, options: recipe.Recipe, device: torch.device, processes: Processes
    ) -> None:
        self.tuned, self.cut, self.feed, self.device, self.processes = tuned, cut, feed, device, processes
        self.training, self.seed = options.training, options.seed
        self.parameters = lora.trainable(tuned)
        self.optimizer = optimizer.adamw(self.parameters.values(), self.training)
        self.halvings = 0
        self._sound = torch.ones((), dtype=torch.bool, device=device)
        """Whether the newest step is finite, and where one that is not stops the run, all before it too."""

    @property
    def images_per_batch(self) -> int:
        """Images computed at once: the recipe's, halved as often as memory ran out."""
        return max(1, self.training.usual_batch >> self.halvings)

    def update(self, step: int, rate: float) -> Update:
        """Step number `step` (from 0) at learning rate `rate`; the weights stay as they are where it is not finite.

        Where such a step is to stop the run, they stay as they are in the steps after it as well, which a device may
        have begun before the first one is looked at.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        chosen = self.feed.schedule.images_of(step)
        tokens = sum(self.feed.schedule.lengths[image] for image in chosen)
        loss = self._gradients(step, tokens)
        loss = self.processes.sum_gradients(self.parameters.values(), loss)
        norm = optimizer.clipped(self.parameters.values(), self.training.max_grad_norm)
        finite = norm.isfinite() & loss.isfinite()
        stops = self.training.on_nonfinite == "stop"
        self._sound = finite & self._sound if stops else finite
        optimizer.update_if(self.optimizer, self._sound)
        captions = sum(len(self.feed.images.captions[image]) for image in chosen)
        figures = Arriving(torch.stack([loss, norm, finite.to(loss.dtype)]))
        return Update(step, tokens, captions, figures)

    def _gradients(self, step: int, tokens: int) -> Tensor:
        """This process's part of the step's summed loss, its gradients accumulated; again in halves if memory ends."""
        while True:
            try:
                return self._accumulated(step, tokens)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                refused = str(error).splitlines()[0] if str(error) else type(error).__name__
            # Outside of the handler, whose traceback would hold on to the tensors of the failed batch.
            self._halve(step, refused)

    def _accumulated(self, step: int, tokens: int) -> Tensor:
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        processes = self.processes
        size, halvings = self.training.usual_batch, self.halvings
        for batch in self.feed.batches(step, size, halvings=halvings, rank=processes.rank, world=processes.world):
            torch.manual_seed(_dropout_seed(self.seed, step, batch.first))
            loss = self.loss_of(batch.to(self.device))
            (loss / tokens).backward()
            total += loss.detach()
        return total

    def loss_of(self, batch: Batch) -> Tensor:
        """The summed loss of one batch on the device, in nats."""
        model = self.tuned.get_base_model()
        context = context_of(model, batch.features, self.cut, batch.prompts)
        return caption_loss(model, context, batch.captions, label_smoothing=self.training.label_smoothing)

    def _halve(self, step: int, refused: str) -> None:
        before = self.images_per_batch
        if before == 1:
            raise CaptionCrafterError(
                f"step {step + 1}: out of memory with one image at once ({refused}). What helps: "
                "training.gradient_checkpointing = true, lora.preset = fast, model.precision = int8 or nf4, fewer "
                "captions an image (data.captions_per_image)."
            )
        self.halvings += 1
        self.optimizer.zero_grad()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        events.warn(
            f"step {step + 1}: out of memory with {counted(before, 'image')} at once; from here on "
            f"{self.images_per_batch}, the same images a step and the same loss. training.images_per_batch is what to "
            "lower next time."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the system had no memory left; what torch's own allocator did not ask for says it in words.

    Those of the system, of the CUDA driver (a kernel's own memory) and of cuBLAS, which makes its handle when it is
    first used.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _dropout_seed(seed: int, step: int, first: int) -> int:
    # Hashed: neighbouring numbers must not share draws, and the CPU's generator reads the lower 32 bits only.
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {first}".encode()).digest()[:4], "big")
