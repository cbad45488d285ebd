"""One recipe trained with several seeds: how much of a result is chance."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from captioncrafter import events, recipe, runs, storage
from captioncrafter.errors import InputError
from captioncrafter.runs import SEEDS
from captioncrafter.stages.train import train
from captioncrafter.training.loop import FitResult


@dataclass(frozen=True)
class SeedsResult:
    """How each seed's run ended, and mean and sample standard deviation of their best validation CIDEr (fractions)."""

    runs: dict[int, FitResult]
    mean_cider: float
    sd_cider: float


def train_seeds(
    options: recipe.Recipe, out: Path, seeds: Sequence[int], *, resume: bool = False, stop_after_s: float | None = None
) -> SeedsResult:
    """Trains `seed-N` folders under `out`, one after the other, and writes what they came to into `seeds.json` there.

    With `resume`, finished ones are left as they are and an unfinished one goes on. `stop_after_s` is the time that all
    of them have together. Everything but the seed (order of
    the data, start of the adapter, dropout) is the same. Raises `InputError` for fewer than two seeds, or one given
    twice.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise InputError(
            f"--seeds {' '.join(map(str, seeds))}: give two different seeds or more; a deviation needs them."
        )
    started = time.monotonic()
    results: dict[int, FitResult] = {}
    for number, seed in enumerate(seeds, start=1):
        folder = out / f"seed-{seed}"
        events.say(f"seed {seed} ({number} of {len(seeds)}): {folder}")
        begun = (folder / runs.RECIPE).is_file()
        results[seed] = train(
            options.model_copy(update={"seed": seed}),
            folder,
            resume=resume and begun,
            stop_after_s=None if stop_after_s is None else started + stop_after_s - time.monotonic(),
        )
    ciders = [result.best_cider for result in results.values()]
    found = SeedsResult(results, statistics.mean(ciders), statistics.stdev(ciders))
    if events.is_main_process():
        storage.write_json(out / SEEDS, asdict(found))
    return found
