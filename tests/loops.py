"""Runs of the loop over a tiny beginning, in steps of two batches, and what they leave behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from captioncrafter import runs, storage
from captioncrafter.model import lora
from captioncrafter.model.stock import Tuned
from captioncrafter.training import loop
from captioncrafter.training.collapse import Validation
from trainees import ALONE, Beginning, decoder_of, equal

EVERY = {"patience": 0, "every_epochs": 1.0}
CIDERS = [0.9, 0.3, 0.5, 0.4]
"""Of the validations of three epochs, the one before training first: the best adapter is that of step 6."""

# Nine steps of two batches; a checkpoint after 2, 3, 4, 6, 8, 9 and a row of the log after 3, 6, 9: between two rows.
UNEVEN = {
    "epochs": 3.0,
    "images_per_step": 2,
    "images_per_batch": 1,
    "log_every_steps": 3,
    "checkpoint_every_steps": 2,
    "keep_checkpoints": 100,
}
EACH = {"log_every_steps": 1, "checkpoint_every_steps": 1}


class Killed(BaseException):
    """Ends a run as a kill does: nothing is written any more."""


def fit(
    start: Beginning,
    out: Path,
    *,
    ciders: list[float] = CIDERS,
    shuffled: float = 0.0,
    before: Callable[[Tuned], object] | None = None,
    validating: Callable[[int, Tuned], object] | None = None,
    source: Callable[..., Tensor] | None = None,
    stop_after_s: float | None = None,
    dropout: float = 0.05,
    validation: dict[str, object] = EVERY,
    tracker: str = "none",
    **training: object,
) -> loop.FitResult:
    """Trains in `out`; validation number n gives the n-th of `ciders`, then the last one on."""
    options = start.options(
        dropout=dropout, training=UNEVEN | training, validation=validation, tracking={"tracker": tracker}
    )
    tuned = start.tuned(options)
    if before is not None:
        before(tuned)
    out.mkdir(exist_ok=True)

    def validate() -> Validation:
        number = len(log_of(out, "validation"))
        if validating is not None:
            validating(number, tuned)
        return Validation(ciders[min(number, len(ciders) - 1)], shuffled, distinct=0.7, copied=0.1, mean_length=9.0)

    return loop.fit(
        start.trainee(tuned, source),
        options,
        runs.Run(out),
        validate,
        save_best=lambda folder: save_weights(tuned, folder),
        processes=ALONE,
        stop_after_s=stop_after_s,
    )


def save_weights(tuned: Tuned, folder: Path) -> None:
    with storage.replacing_folder(folder) as temporary:
        save_file({name: p.detach() for name, p in lora.trainable(tuned).items()}, temporary / "weights.safetensors")


def checkpoint_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def weights_after(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(checkpoint_of(run, step) / "weights.safetensors")


def progress_after(run: Path, step: int) -> dict[str, Any]:
    return json.loads((checkpoint_of(run, step) / "state.json").read_text())["progress"]


def kept(run: Path) -> dict[str, Tensor]:
    return load_file(run / "adapter" / "weights.safetensors")


def log_of(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in runs.Run(run).log() if row["kind"] == kind]


def assert_same_end(run: Path, other: Path, step: int = 9) -> None:
    """Bit for bit: weights, moments, progress, the adapter kept, and every row of the log but for its speed."""
    assert equal(weights_after(run, step), weights_after(other, step))
    moments = (load_file(checkpoint_of(one, step) / "optimizer.safetensors") for one in (run, other))
    assert equal(*moments)
    assert progress_after(run, step) == progress_after(other, step)
    assert equal(kept(run), kept(other))
    rows, others = (
        [{key: value for key, value in row.items() if key != "captions_per_s"} for row in runs.Run(one).log()]
        for one in (run, other)
    )
    assert rows == others


def at_batch(number: int, action: Callable[[], object]) -> Callable[[Tuned], None]:
    """Does `action` when batch `number` (from 0, two a step) reaches the decoder."""

    def listen(tuned: Tuned) -> None:
        seen = []

        def count(*anything: object) -> None:
            seen.append(None)
            if len(seen) == number + 1:
                action()

        decoder_of(tuned).register_forward_pre_hook(count)

    return listen


def send(number: int) -> Callable[..., None]:
    return lambda *anything: os.kill(os.getpid(), number)


def kill(*anything: object) -> None:
    raise Killed
