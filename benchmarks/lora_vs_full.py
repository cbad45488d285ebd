"""What LoRA costs and saves: adapters of several sizes against training the whole language model.

The same engine, data, order and steps for all, on the embedded miniature and a dataset folder; each run has a process
of its own, so that its peak memory is its own. CIDEr of the last weights on the validation images, greedy; the
differences to full fine-tuning come with paired bootstrap intervals over images, the seeds' scores averaged per image.
The miniature has read Flickr8k's captions. With `--captions longest` each photo has its longest caption alone, to learn
from and to be scored against: so wordy a style is new to it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _machine import PeakMemory
from _outcome import parser, tell
from captioncrafter import recipe
from captioncrafter.data.splits import CaptionedImage, load_splits
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import ciders_of
from captioncrafter.model import lora
from captioncrafter.stages.base import Base
from captioncrafter.stages.frozen_half import caption_ids, extract_and_observe, open_store, source_of
from captioncrafter.stages.validation import captions_of
from captioncrafter.training import optimizer
from captioncrafter.training.batches import Schedule, TrainingImages
from captioncrafter.training.feed import Feed
from captioncrafter.training.mode import evaluation_mode, training_mode
from captioncrafter.training.processes import Processes
from captioncrafter.training.step import Stepper

CPU = torch.device("cpu")
ALL = ["q", "k", "v", "o", "wi_0", "wi_1", "wo", "lm_head"]
CONTESTANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "efficient, rank 64": {"preset": "efficient", "targets": ALL, "rank": 64, "alpha": 64.0},
    "efficient, rank 16": {"preset": "efficient", "targets": ALL, "rank": 16, "alpha": 16.0},
    "fast, rank 64": {"preset": "fast", "targets": ALL[:-1], "rank": 64, "alpha": 64.0},
}
LEARNING_RATE = {"full": 5e-4}
ADAPTER_LEARNING_RATE = 1e-3
RESAMPLES = 1000


class Whole(nn.Module):
    """The whole language model in place of an adapter on it, under the names that the engine expects."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = model
        model.language_model.float().requires_grad_()

    def get_base_model(self) -> Any:
        """The stock model."""
        return self.base_model.model


def main() -> None:
    """Trains every contestant with every seed, compares, prints."""
    options = parser(__doc__ or "")
    options.add_argument(
        "--data", type=Path, required=True, help="dataset folder, as `captioncrafter prepare` writes it"
    )
    options.add_argument("--images", type=int, default=2000, help="training images")
    options.add_argument("--validation-images", type=int, default=1000)
    options.add_argument("--captions", choices=("all", "longest"), default="all", help="of each image")
    options.add_argument("--epochs", type=float, default=1.0)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--only", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.only:
        name, seed = given.only.rsplit("/", 1)
        outcome = run(recipe_of(given, name, int(seed)), full=name == "full", longest=given.captions == "longest")
        print(json.dumps(outcome))
        return
    outcomes = {name: [_apart(given, f"{name}/{seed}") for seed in given.seeds] for name in CONTESTANTS}
    _tell(outcomes, as_json=given.json)


def recipe_of(given: argparse.Namespace, name: str, seed: int) -> recipe.Recipe:
    """What a contestant does; only the adapter and its learning rate differ."""
    return recipe.Recipe.model_validate(
        {
            "seed": seed,
            "model": {"base": "miniature", "precision": "fp32", "device": "cpu"},
            "data": {"path": str(given.data), "train_images": given.images},
            "lora": CONTESTANTS[name] | {"dropout": 0.0},
            "training": {
                "epochs": given.epochs,
                "images_per_step": 8,
                "learning_rate": LEARNING_RATE.get(name, ADAPTER_LEARNING_RATE),
            },
            "validation": {"images": given.validation_images},
        }
    )


def run(options: recipe.Recipe, *, full: bool, longest: bool) -> dict[str, Any]:
    """Trains in this process; gives weights that train, seconds, peak memory and the CIDEr of each validation image.

    Before anything is trained, the model is scored on the same images.
    """
    torch.manual_seed(options.seed)
    memory = PeakMemory(CPU)
    processes = Processes(CPU)
    splits = load_splits(options.data)
    base = Base.of(options, CPU)
    store = open_store(base, options.features)
    extract_and_observe(base, splits, store, options, processes)
    model = base.load_trained()
    validation = _told(splits["validation"], longest=longest)[: options.validation.images]
    references = References({image.image_id: list(image.captions) for image in validation})
    greedy = options.decoding.model_copy(update={"num_beams": 1})

    def ciders() -> list[float]:
        return ciders_of(captions_of(base, model, validation, store, greedy), references).tolist()

    before = ciders()
    tuned: Any = Whole(model) if full else lora.attach(model, options.lora, seed=options.seed)
    chosen = _told(splits["train"], longest=longest)
    images = TrainingImages(
        [image.image_id for image in chosen],
        [caption_ids(base, image, options)[0] for image in chosen],
        [base.prompt_of(image) for image in chosen],
    )
    training = options.training
    schedule = Schedule(images.lengths, training.images_per_step, training.epochs, options.seed)
    source = source_of(base, splits["train"], images.prompts, store, options)
    feed = Feed(images, schedule, source, base.config, pinned=False)
    stepper = Stepper(tuned, base.cut, feed, options, CPU, processes)
    training_mode(tuned, training)
    memory.restart()
    started = time.perf_counter()
    for step in range(schedule.steps):
        stepper.update(step, optimizer.learning_rate(step, schedule.steps, training))
    seconds = time.perf_counter() - started
    peak = memory.mib()
    evaluation_mode(tuned)
    return {
        "trainable": sum(weight.numel() for weight in stepper.parameters.values()),
        "trained_bytes": sum(4 * 4 * weight.numel() for weight in stepper.parameters.values()),
        "seconds": seconds,
        "peak_mib": peak,
        "before": before,
        "cider": ciders(),
    }


def _told(images: Iterable[CaptionedImage], *, longest: bool) -> list[CaptionedImage]:
    """The images with all of their captions, or with the longest."""
    return [replace(image, captions=(max(image.captions, key=len),)) if longest else image for image in images]


def _apart(given: argparse.Namespace, which: str) -> dict[str, Any]:
    words = [sys.executable, __file__, "--only", which, "--data", str(given.data), "--images", str(given.images)]
    words += ["--validation-images", str(given.validation_images), "--captions", given.captions]
    words += ["--epochs", str(given.epochs)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _tell(outcomes: dict[str, list[dict[str, Any]]], *, as_json: bool) -> None:
    scores = {name: np.mean([one["cider"] for one in found], axis=0) for name, found in outcomes.items()}
    columns: dict[str, dict[str, float]] = {}
    for name, found in outcomes.items():
        ciders = [float(np.mean(one["cider"])) for one in found]
        low, high = _interval(scores[name] - scores["full"])
        columns[name] = {
            "trainable": found[0]["trainable"],
            "training_state_mib": found[0]["trained_bytes"] / 2**20,
            "peak_mib": float(np.median([one["peak_mib"] for one in found])),
            "CIDEr_before": float(np.mean(found[0]["before"])),
            "CIDEr": float(np.mean(ciders)),
            "sd_over_seeds": float(np.std(ciders, ddof=1)) if len(ciders) > 1 else float("nan"),
            "difference_to_full": float(np.mean(scores[name] - scores["full"])),
            "low": low,
            "high": high,
        }
    ratios = {
        name: float(
            np.median([one["seconds"] for one in outcomes["full"]]) / np.median([one["seconds"] for one in found])
        )
        for name, found in outcomes.items()
        if name != "full"
    }
    seconds = {name: [one["seconds"] for one in found] for name, found in outcomes.items()}
    tell("lora_vs_full", "training the whole language model", ratios, seconds, as_json=as_json, columns=columns)


def _interval(differences: np.ndarray) -> tuple[float, float]:
    draw = np.random.default_rng(0)
    means = [draw.choice(differences, len(differences)).mean() for _ in range(RESAMPLES)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


if __name__ == "__main__":
    main()
