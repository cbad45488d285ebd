"""The training loop: packed captions over cached features, validated, checkpointed, resumable.

Where a run stands is its step alone: the data order is a function of it, the learning rate too, and a checkpoint
holds the rest (weights, optimizer, random state). What validation does arrives as an argument.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from captioncrafter import events, recipe, runs
from captioncrafter.errors import CaptionCrafterError
from captioncrafter.features.store import FeatureStore
from captioncrafter.model import lora
from captioncrafter.model.captioning import PackedCaptions, Prompt, caption_logits, summed_loss
from captioncrafter.model.stock import Tuned
from captioncrafter.training import checkpoint, guard, optimizer
from captioncrafter.training.batches import Schedule, TrainingImages
from captioncrafter.training.checkpoint import Progress
from captioncrafter.training.packing import pack
from captioncrafter.training.window import Window


@dataclass(frozen=True)
class Validation:
    """What one look at the validation images gave; CIDEr as a fraction, lengths in words, shares of 1."""

    cider: float
    shuffled_cider: float
    distinct: float
    mean_length: float


@dataclass(frozen=True)
class FitResult:
    """How a run ended: the step and CIDEr of the adapter it kept, the steps done, whether it stopped early."""

    best_step: int
    best_cider: float
    steps: int
    stopped_early: bool


class CaptionLoss(nn.Module):
    """The packed step as one module: features and captions in, summed loss out."""

    def __init__(self, tuned: Tuned, prompt: Prompt, label_smoothing: float) -> None:
        super().__init__()
        self.tuned = tuned
        self.prompt = prompt
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor, captions: PackedCaptions) -> Tensor:
        """The loss of one batch, in nats, summed over its caption tokens."""
        model = self.tuned.get_base_model()
        logits = caption_logits(model, features, self.prompt, captions)
        return summed_loss(logits, captions.labels, label_smoothing=self.label_smoothing)


def fit(
    tuned: Tuned,
    images: TrainingImages,
    store: FeatureStore,
    prompt: Prompt,
    options: recipe.Recipe,
    run: runs.Run,
    validate: Callable[[], Validation],
    *,
    save_best: Callable[[Path], None],
) -> FitResult:
    """Trains the adapter of `tuned`; the best one by validation CIDEr is what `save_best` last wrote to the run.

    Goes on from the run's newest good checkpoint when there is one. Raises `Stopped` after a signal, with a
    checkpoint written, and `CaptionCrafterError` on a loss that is not finite, naming step and images.
    """
    return _Loop(tuned, images, store, prompt, options, run, validate, save_best).run_to_the_end()


class _Loop:
    """The state of one run between steps: weights and optimizer in memory, `progress`, the rows to log."""

    def __init__(
        self,
        tuned: Tuned,
        images: TrainingImages,
        store: FeatureStore,
        prompt: Prompt,
        options: recipe.Recipe,
        run: runs.Run,
        validate: Callable[[], Validation],
        save_best: Callable[[Path], None],
    ) -> None:
        self.tuned, self.images, self.store, self.run = tuned, images, store, run
        self.validate, self.save_best = validate, save_best
        self.training, self.validation, self.seed = options.training, options.validation, options.seed
        self.schedule = Schedule(len(images), self.training.images_per_step, self.training.epochs, options.seed)
        self.parameters = lora.trainable(tuned)
        self.device = next(iter(self.parameters.values())).device
        self.accelerator = _accelerator(self.device, options.tracking, run)
        module = CaptionLoss(tuned, prompt.to(self.device), self.training.label_smoothing)
        self.loss, self.optimizer = self.accelerator.prepare(
            module, optimizer.adamw(self.parameters.values(), self.training), device_placement=[False, False]
        )
        self.progress = Progress()
        self.every_steps = max(1, round(self.validation.every_epochs * self.schedule.steps_per_epoch))
        self.window = Window()

    def run_to_the_end(self) -> FitResult:
        """Every step from where the run stands to its last."""
        with torch.random.fork_rng(devices=self._random_devices()), guard.listening() as stop:
            torch.manual_seed(self.seed)
            self._resume()
            _training_mode(self.tuned, self.training.gradient_checkpointing)
            try:
                self._remaining_steps(stop)
            finally:
                self.accelerator.end_training()
        best_step, best_cider = self.progress.best_step, self.progress.best_cider
        assert best_step is not None and best_cider is not None
        return FitResult(best_step, best_cider, self.progress.step, self.progress.step < self.schedule.steps)

    def _remaining_steps(self, stop: guard.StopRequest) -> None:
        with events.progress("training", self.schedule.steps, done=self.progress.step) as bar:
            while not self.progress.finished:
                note = self._step()
                bar.advance(note=note)
                if stop.signal_number is not None:
                    self._stop(stop.signal_number)

    def _resume(self) -> None:
        folder = self.run.path / runs.CHECKPOINTS
        path = checkpoint.newest_good(folder)
        if path is None:
            self.run.keep_log(lambda row: False)
            self._validate()
            return
        self.progress = checkpoint.restore(path, self.parameters, self._adamw(), self.device)
        self.run.keep_log(lambda row: row["step"] <= self.progress.step)
        if self.progress.step == self.progress.best_step:
            # The adapter is written after the checkpoint that knows of it: a kill between the two left the one before.
            self.save_best(self.run.adapter)
        events.say(f"going on after step {self.progress.step} of {self.schedule.steps}")

    def _step(self) -> str:
        step = self.progress.step
        rate = optimizer.learning_rate(step, self.schedule.steps, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        chosen = self.schedule.images_of(step)
        loss, tokens, norm = self._update(chosen)
        if not math.isfinite(loss) or not math.isfinite(norm):
            self._refuse_nonfinite(step, chosen, loss, norm)
        self.progress = replace(self.progress, step=step + 1)
        self.window.add(loss, tokens, sum(len(self.images.captions[i]) for i in chosen))
        if (step + 1) % self.training.log_every_steps == 0 or step + 1 == self.schedule.steps:
            self._log_steps(rate, norm)
        last = step + 1 == self.schedule.steps
        if last or (step + 1) % self.every_steps == 0:
            self._validate()
        elif (step + 1) % self.training.checkpoint_every_steps == 0:
            self._save()
        return f"loss {loss / tokens:.3f}"

    def _update(self, chosen: list[int]) -> tuple[float, int, float]:
        """One update of the weights from the images at `chosen`: summed loss, caption tokens, gradient norm."""
        size = self.training.images_per_batch
        batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        tokens = sum(len(ids) for image in chosen for ids in self.images.captions[image])
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = self._loss_of(batch)
            self.accelerator.backward(loss / tokens)
            total += loss.detach()
        norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.training.max_grad_norm)
        assert norm is not None
        if torch.isfinite(norm):
            self.optimizer.step()
        return float(total), tokens, float(norm)

    def _loss_of(self, batch: list[int]) -> Tensor:
        text = self.tuned.get_base_model().config.text_config
        captions = pack(
            [self.images.captions[image] for image in batch],
            start_id=text.decoder_start_token_id,
            pad_id=text.pad_token_id,
        )
        features = self.store.rows([self.images.features[image] for image in batch])
        return self.loss(features.to(self.device, non_blocking=True), captions.to(self.device))

    def _validate(self) -> None:
        started = time.monotonic()
        _evaluation_mode(self.tuned)
        with torch.random.fork_rng(devices=self._random_devices()):
            found = self.validate()
        _training_mode(self.tuned, self.training.gradient_checkpointing)
        step = self.progress.step
        best = step > 0 and (self.progress.best_cider is None or found.cider > self.progress.best_cider)
        if best:
            self.progress = replace(self.progress, best_cider=found.cider, best_step=step, validations_without_gain=0)
        elif step > 0:
            self.progress = replace(self.progress, validations_without_gain=self.progress.validations_without_gain + 1)
        self._log_validation(found, best=best)
        patience = self.validation.patience
        out_of_patience = 0 < patience <= self.progress.validations_without_gain
        self.progress = replace(self.progress, finished=step >= self.schedule.steps or out_of_patience)
        if step > 0:
            self._save()
        if best:
            self.save_best(self.run.adapter)
        self.window.leave_out(time.monotonic() - started)

    def _log_steps(self, rate: float, norm: float) -> None:
        row = {
            "kind": "step",
            "step": self.progress.step,
            "epoch": self.schedule.epoch_after(self.progress.step),
            **self.window.take(),
            "learning_rate": rate,
            "grad_norm": norm,
        }
        self._log(row)

    def _log_validation(self, found: Validation, *, best: bool) -> None:
        step = self.progress.step
        epoch = self.schedule.epoch_after(step)
        row = {
            "kind": "validation",
            "step": step,
            "epoch": epoch,
            "CIDEr": found.cider,
            "best": best,
            "shuffled_CIDEr": found.shuffled_cider,
            "distinct": found.distinct,
            "mean_length": found.mean_length,
        }
        self._log(row)
        mark = " (best so far)" if best else ""
        before = " before training" if step == 0 else ""
        events.say(
            f"epoch {epoch:.2f}, step {step}{before}: CIDEr {100 * found.cider:.1f}, "
            f"with images shuffled {100 * found.shuffled_cider:.1f}{mark}"
        )

    def _log(self, row: dict[str, float | int | str | bool]) -> None:
        self.run.append_log(row)
        numbers = {key: value for key, value in row.items() if key not in ("kind", "step", "best")}
        self.accelerator.log({f"{row['kind']}/{key}": value for key, value in numbers.items()}, step=self.progress.step)

    def _save(self) -> None:
        folder = self.run.path / runs.CHECKPOINTS
        keep = self.training.keep_checkpoints
        checkpoint.save(folder, self.progress, self.parameters, self._adamw(), self.device, keep=keep)

    def _stop(self, signal_number: int) -> None:
        if not self.progress.finished:
            self._save()
        raise guard.Stopped(
            f"stopped after step {self.progress.step} of {self.schedule.steps}; everything is kept in {self.run.path}. "
            "Give the same command with --resume to go on.",
            signal_number,
        )

    def _refuse_nonfinite(self, step: int, chosen: list[int], loss: float, norm: float) -> None:
        named = ", ".join(self.images.names[image] for image in chosen[:8]) + (" …" if len(chosen) > 8 else "")
        raise CaptionCrafterError(
            f"step {step + 1}: the loss is {loss} and the gradient norm {norm}. Images of this step: {named}. "
            f"The last good state is kept in {self.run.path / runs.CHECKPOINTS}; a lower training.learning_rate is the "
            "usual cure."
        )

    def _adamw(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _random_devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []


def _accelerator(device: torch.device, tracking: recipe.Tracking, run: runs.Run) -> Accelerator:
    tracker = None if tracking.tracker == "none" else tracking.tracker
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision="no", log_with=tracker, project_dir=str(run.path)
    )
    if tracker is not None:
        accelerator.init_trackers(tracking.project)
    return accelerator


def _training_mode(tuned: Tuned, gradient_checkpointing: bool) -> None:
    """The language model trains; the frozen half stays in eval mode, or the Q-Former's dropout would be on."""
    tuned.eval()
    language_model = tuned.get_base_model().language_model
    language_model.train()
    if gradient_checkpointing:
        # Renamed in transformers 5.23, which warns of the old name.
        renamed = getattr(language_model, "activation_checkpointing_enable", None)
        # Reentrant checkpointing fails over a frozen base: no input of a block requires a gradient.
        (renamed or language_model.gradient_checkpointing_enable)({"use_reentrant": False})


def _evaluation_mode(tuned: Tuned) -> None:
    tuned.eval()
