"""The training loop: steps over the frozen prefix's features, validated, checkpointed, resumable.

Where a run stands is its step alone: the data order is a function of it, and so are dropout and learning rate; a
checkpoint holds the rest (weights, optimizer, sums not yet logged). What validation does arrives as an argument.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from captioncrafter import events, recipe, runs
from captioncrafter.errors import CaptionCrafterError
from captioncrafter.model.cut import Cut
from captioncrafter.model.stock import Tuned
from captioncrafter.training import checkpoint, guard, optimizer
from captioncrafter.training.batches import Schedule, TrainingImages
from captioncrafter.training.checkpoint import Progress
from captioncrafter.training.collapse import Validation
from captioncrafter.training.feed import FeatureSource, Feed
from captioncrafter.training.journal import Journal
from captioncrafter.training.mode import evaluation_mode, training_mode
from captioncrafter.training.processes import Processes
from captioncrafter.training.step import Stepper, Update
from captioncrafter.training.tracking import Tracker

_AGREE_EVERY_STEPS = 4


@dataclass(frozen=True)
class FitResult:
    """How a run ended: the step and CIDEr of the adapter it kept, the steps done, whether it stopped early.

    `skipped` counts the steps set aside because they were not finite.
    """

    best_step: int
    best_cider: float
    steps: int
    stopped_early: bool
    skipped: int = 0


@dataclass(frozen=True)
class Trainee:
    """What is trained: the adapter on the part of the model behind `cut`, and what it starts from in each step."""

    tuned: Tuned
    cut: Cut
    images: TrainingImages
    source: FeatureSource
    device: torch.device


def fit(
    trainee: Trainee,
    options: recipe.Recipe,
    run: runs.Run,
    validate: Callable[[], Validation],
    *,
    save_best: Callable[[Path], None],
    processes: Processes,
    stop_after_s: float | None = None,
) -> FitResult:
    """Trains the adapter; the best one by validation CIDEr is what `save_best` last wrote to the run.

    Goes on from the run's newest good checkpoint when there is one. Raises `Stopped` after a signal or once
    `stop_after_s` seconds are over, with a checkpoint written, and `CaptionCrafterError` on a loss that is not finite,
    naming step and images, with the state before that step written as a checkpoint where one was done.
    """
    return _Loop(trainee, options, run, validate, save_best, processes).run_to_the_end(stop_after_s)


class _Loop:
    """The state of one run between steps: weights and optimizer in memory, `progress`, the journal."""

    def __init__(
        self,
        trainee: Trainee,
        options: recipe.Recipe,
        run: runs.Run,
        validate: Callable[[], Validation],
        save_best: Callable[[Path], None],
        processes: Processes,
    ) -> None:
        self.trainee, self.run, self.processes = trainee, run, processes
        self.validate, self.save_best = validate, save_best
        self.training, self.validation, self.tracking = options.training, options.validation, options.tracking
        images, device = trainee.images, trainee.device
        self.schedule = Schedule(images.lengths, self.training.images_per_step, self.training.epochs, options.seed)
        config = trainee.tuned.get_base_model().config
        self.feed = Feed(images, self.schedule, trainee.source, config, pinned=device.type == "cuda")
        self.stepper = Stepper(trainee.tuned, trainee.cut, self.feed, options, device, processes)
        self.progress = Progress()
        self.every_steps = max(1, round(self.validation.every_epochs * self.schedule.steps_per_epoch))
        self.unchecked: list[Update] = []
        self.saved_step = 0
        """The step of the newest checkpoint; before the first one there is nothing to keep."""

    def run_to_the_end(self, stop_after_s: float | None) -> FitResult:
        """Every step from where the run stands to its last."""
        devices = [self.trainee.device] if self.trainee.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=devices),
            guard.listening(stop_after_s) as stop,
            Tracker.opened(self.tracking, self.run, self.processes) as tracker,
        ):
            self.journal = Journal(self.run, self.schedule, self.processes, tracker)
            try:
                self._resume()
                training_mode(self.trainee.tuned, self.training)
                self._remaining_steps(stop)
            finally:
                self.feed.close()
        best_step, best_cider = self.progress.best_step, self.progress.best_cider
        assert best_step is not None and best_cider is not None
        early = self.progress.step < self.schedule.steps
        return FitResult(best_step, best_cider, self.progress.step, early, self.progress.skipped)

    def _remaining_steps(self, stop: guard.StopRequest) -> None:
        with events.progress("training", self.schedule.steps, done=self.progress.step) as bar:
            while not self.progress.finished:
                bar.advance(note=self._step())
                self._stop_if_asked(stop)

    def _resume(self) -> None:
        folder = self.run.path / runs.CHECKPOINTS
        found = checkpoint.newest_good(folder, with_best=True) if self.processes.is_main else None
        name = self.processes.broadcast(found.name if found else None)
        if name is None:
            self.journal.begin()
            self._validate()
            return
        if self.processes.is_main:
            self._renew_adapter(folder / name)
        self.progress = checkpoint.restore(folder / name, self.stepper.parameters, self.stepper.optimizer)
        self.stepper.halvings = self.progress.halvings
        self.saved_step = self.progress.step
        self.journal.go_on(self.progress.step, self.progress.window, every_steps=self.training.log_every_steps)
        events.say(f"going on after step {self.progress.step} of {self.schedule.steps}")

    def _renew_adapter(self, resumed: Path) -> None:
        """Writes the best adapter before `resumed` again, from its checkpoint, whose weights are in memory afterwards.

        It was written after the checkpoint that knows of it, so a kill between the two left the one before; and no
        hash tells whether it was damaged since.
        """
        best = checkpoint.renewed_best(resumed)
        if best is not None:
            checkpoint.copy_weights(best, self.stepper.parameters)
            self.save_best(self.run.adapter)

    def _step(self) -> str:
        step = self.progress.step
        rate = optimizer.learning_rate(step, self.schedule.steps, self.training)
        self.unchecked.append(self.stepper.update(step, rate))
        # One step late on a device that works on while this process waits for nothing; the CPU is never behind.
        self._check(keep=1 if self.trainee.device.type != "cpu" else 0)
        done = step + 1
        self.progress = replace(self.progress, step=done)
        last = done == self.schedule.steps
        note = ""
        if last or done % self.training.log_every_steps == 0:
            self._check()
            note = self.journal.log_steps(done, rate)
        if last or done % self.every_steps == 0:
            self._validate()
        elif done % self.training.checkpoint_every_steps == 0:
            self._save()
        return note

    def _check(self, *, keep: int = 0) -> None:
        """Looks at what all steps but the newest `keep` came to: adds them up, or ends the run when one is not finite.

        Such a step has left the weights as they were, whatever is decided here.
        """
        while len(self.unchecked) > keep:
            update = self.unchecked.pop(0)
            if update.finite:
                self.journal.window.add(update.loss, update.norm, update.tokens, update.captions)
            elif self.training.on_nonfinite == "skip":
                self.progress = replace(self.progress, skipped=self.progress.skipped + 1)
                events.warn(self._nonfinite(update) + " Set aside; the weights are as before it.")
            else:
                self.progress = replace(self.progress, step=update.step)
                raise CaptionCrafterError(
                    f"{self._nonfinite(update)} {self._kept()} --resume --on-nonfinite skip goes on and sets such "
                    "steps aside. The usual cure is a lower training.learning_rate, in a run of its own (--out)."
                )

    def _nonfinite(self, update: Update) -> str:
        images = [self.trainee.images.names[image] for image in self.schedule.images_of(update.step)]
        named = ", ".join(images[:8]) + (" …" if len(images) > 8 else "")
        return (
            f"step {update.step + 1}: the loss is {update.loss} and the gradient norm {update.norm}. "
            f"Images of this step: {named}."
        )

    def _kept(self) -> str:
        """Writes the state before the step that was not finite, which the weights still have; says where it is."""
        folder, step = self.run.path / runs.CHECKPOINTS, self.progress.step
        if step == 0:
            return "No step was done before it."
        if step != self.saved_step:
            try:
                # One more than usual: this state may be on the way to ruin, though it is finite.
                self._write_checkpoint(keep=self.training.keep_checkpoints + 1)
            except OSError as error:
                newest = checkpoint.newest_good(folder)
                instead = f"the newest that was is {newest}." if newest else "there is none before it."
                return f"The state before it could not be written ({error}); {instead}"
        return f"The state before it is kept in {folder / checkpoint.name_of(step)}."

    def _stop_if_asked(self, stop: guard.StopRequest) -> None:
        several_gpus = self.processes.world > 1 and self.trainee.device.type != "cpu"
        if several_gpus and self.progress.step % _AGREE_EVERY_STEPS and not self.progress.finished:
            return  # agreeing waits for the device
        mine = torch.tensor([stop.code, self.stepper.halvings])
        code, self.stepper.halvings = self.processes.agree(mine).tolist()
        if not code or self.progress.finished:
            return
        self._save()
        raise guard.Stopped(
            f"stopped after step {self.progress.step} of {self.schedule.steps}, because {guard.reason(code)}; "
            f"everything is kept in {self.run.path}. Give the same command with --resume to go on.",
            code,
        )

    def _validate(self) -> None:
        started = time.monotonic()
        self._check()
        evaluation_mode(self.trainee.tuned)
        found = self.validate()
        training_mode(self.trainee.tuned, self.training)
        step = self.progress.step
        best = step > 0 and (self.progress.best_cider is None or found.cider > self.progress.best_cider)
        if best:
            self.progress = replace(self.progress, best_cider=found.cider, best_step=step, validations_without_gain=0)
        elif step > 0:
            self.progress = replace(self.progress, validations_without_gain=self.progress.validations_without_gain + 1)
        self.journal.log_validation(step, found, best=best)
        patience = self.validation.patience
        out_of_patience = 0 < patience <= self.progress.validations_without_gain
        self.progress = replace(self.progress, finished=step >= self.schedule.steps or out_of_patience)
        if step > 0:
            self._save()
        if best and self.processes.is_main:
            self.save_best(self.run.adapter)
        self.journal.window.leave_out(time.monotonic() - started)

    def _save(self) -> None:
        """A checkpoint of where the run stands, unless what led here turns out not to be finite."""
        self._check()
        self._write_checkpoint(keep=self.training.keep_checkpoints)

    def _write_checkpoint(self, *, keep: int) -> None:
        self.progress = replace(self.progress, window=self.journal.window.to_json(), halvings=self.stepper.halvings)
        if self.processes.is_main:
            checkpoint.save(
                self.run.path / runs.CHECKPOINTS,
                self.progress,
                self.stepper.parameters,
                self.stepper.optimizer,
                keep=keep,
            )
        self.processes.barrier()
        self.saved_step = self.progress.step
