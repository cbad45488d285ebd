"""The road of a training: photographs on disk, a recipe, the run itself, and its adapter in stock hands."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from _subject import CAPTIONS_PER_IMAGE, photograph
from _watch import Seen, Watch
from captioncrafter.data.dataset import FEATURES, without_progress_bars
from captioncrafter.data.splits import CaptionedImage, load_splits
from captioncrafter.features.key import feature_name
from captioncrafter.model import checkpoint, lora
from captioncrafter.model.captioning import target_states
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.prefix import context_of
from captioncrafter.model.prompts import stacked
from captioncrafter.recipe import Recipe
from captioncrafter.runs import Run
from captioncrafter.stages.base import Base
from captioncrafter.stages.export import export
from captioncrafter.stages.frozen_half import caption_ids, open_store
from captioncrafter.stages.train import train
from captioncrafter.training.packing import pack

COMPARED_IMAGES, COMPARED_CAPTIONS = 2, 2
_IGNORE = -100


@dataclass(frozen=True)
class Trip:
    """How far the road is gone: images of each split, images a step and at once (None: as the product does), passes."""

    train: int
    validation: int
    images_per_step: int
    images_per_batch: int | None
    epochs: int


@dataclass(frozen=True)
class Trained:
    """A run that came to its end: its recipe, its folder, its adapter as exported, what each phase took."""

    options: Recipe
    run: Run
    exported: Path
    phases: Mapping[str, Seen]


def write_photographs(folder: Path, trip: Trip) -> Path:
    """A dataset folder of drawn photographs, each with five captions of T5's commonest words, as long as Flickr8k's."""
    draw = np.random.default_rng(0)
    tokenizer = json.loads((checkpoint.find("miniature").folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = [piece.removeprefix("▁") for piece, _ in tokenizer["model"]["vocab"] if piece.startswith("▁")]
    words = [word for word in pieces if word.isalpha() and word.islower()]
    splits = {}
    for name, count in (("train", trip.train), ("validation", trip.validation)):
        columns = {
            "image": [{"bytes": photograph(draw), "path": None} for _ in range(count)],
            "image_id": [f"{name}-{number}.jpg" for number in range(count)],
            "captions": [[_caption(draw, words) for _ in range(CAPTIONS_PER_IMAGE)] for _ in range(count)],
        }
        splits[name] = datasets.Dataset.from_dict(columns, features=FEATURES)
    with without_progress_bars():
        datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def _caption(draw: np.random.Generator, words: Sequence[str]) -> str:
    return " ".join(draw.choice(words, size=int(np.clip(round(draw.normal(12, 4)), 6, 24))))


def recipe_for(
    found: Checkpoint, data: Path, trip: Trip, device: torch.device, *, preset: str, precision: str, recomputing: bool
) -> Recipe:
    """The defaults with as few images and steps as `trip` says, validated once before the first step and once after."""
    return Recipe.model_validate(
        {
            "model": {"base": str(found.folder), "precision": precision, "device": str(device)},
            "data": {"path": str(data)},
            "lora": {"preset": preset},
            "features": {"folder": str(data.parent)},
            "training": {
                "epochs": trip.epochs,
                "images_per_step": trip.images_per_step,
                "images_per_batch": trip.images_per_batch,
                "gradient_checkpointing": recomputing,
                # A hundred times the default: after a few steps at that, what the adapter does to the logits would
                # drown in bfloat16's rounding.
                "learning_rate": 1e-2,
            },
            "validation": {"every_epochs": trip.epochs},
        }
    )


def trained(options: Recipe, out: Path, device: torch.device) -> Trained:
    """What `captioncrafter train` makes of a recipe, its phases watched, and `captioncrafter export` of that."""
    watch = Watch(device)
    with watch.watching():
        train(options, out)
    exported = export(out, out.with_name(f"{out.name}, exported")).folder
    return Trained(options, Run.open(out), exported, watch.phases)


@dataclass(frozen=True)
class Agreement:
    """How far two ways to the logits of caption tokens lie apart, as a share of their norm.

    `to_stock` is from ours to the stock model's under stock PEFT, `to_base` from ours to ours without the adapter: what
    training changed.
    """

    logits: int
    to_stock: float
    to_base: float


def agreement(found: Checkpoint, done: Trained, device: torch.device) -> Agreement:
    """Ours, packed over stored features on the trained half alone, against the whole stock model from the pixels."""
    images = list(load_splits(done.options.data)["train"])[:COMPARED_IMAGES]
    ours, base = _our_logits(done, images, device)
    stock = _stock_logits(found, done, images, device)
    return Agreement(ours.numel(), _apart(ours, stock), _apart(base, ours))


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@torch.no_grad()
def _our_logits(done: Trained, images: Sequence[CaptionedImage], device: torch.device) -> tuple[Tensor, Tensor]:
    """With the adapter as the run keeps it, and without it."""
    base = Base.of(done.options, device)
    model = base.load_trained()
    tuned = lora.load_adapter(model, done.run.adapter)
    store = open_store(base, done.options.features)
    assert store is not None
    prompts = [base.prompt_of(image) for image in images]
    rows = stacked(prompts, pad_id=model.config.text_config.pad_token_id)
    names = [feature_name(image.content, prompt, base.cut) for image, prompt in zip(images, prompts, strict=True)]
    features = store.rows(names).to(device)
    answers = [caption_ids(base, image, done.options)[0][:COMPARED_CAPTIONS] for image in images]
    captions = pack(answers, model.config, rows).to(device)

    def logits() -> Tensor:
        context = context_of(model, features, base.cut, rows.to(device))
        return model.get_output_embeddings()(target_states(model, context, captions)).float().cpu()

    with_adapter = logits()
    with tuned.disable_adapter():
        return with_adapter, logits()


@torch.no_grad()
def _stock_logits(found: Checkpoint, done: Trained, images: Sequence[CaptionedImage], device: torch.device) -> Tensor:
    """With the adapter as exported, by transformers and PEFT alone: a caption a row, from the pixels."""
    from peft import PeftModel
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    processor: Any = Blip2Processor.from_pretrained(found.folder)
    with checkpoint.quiet_transformers():
        model: Any = Blip2ForConditionalGeneration.from_pretrained(found.folder, dtype=torch.bfloat16)
    tuned = PeftModel.from_pretrained(model, str(done.exported)).eval().to(device)
    logits = []
    for image in images:
        answers = processor.tokenizer(list(image.captions[:COMPARED_CAPTIONS]), return_tensors="pt", padding=True)
        kept = answers.attention_mask.bool()
        inputs = processor(images=image.decode(), text=done.options.model.prompt, return_tensors="pt").to(device)
        found_logits = tuned(
            pixel_values=inputs.pixel_values.to(torch.bfloat16).expand(len(kept), -1, -1, -1),
            input_ids=inputs.input_ids.expand(len(kept), -1),
            attention_mask=inputs.attention_mask.expand(len(kept), -1),
            labels=answers.input_ids.masked_fill(~kept, _IGNORE).to(device),
        ).logits
        logits.append(found_logits.float().cpu()[kept])
    return torch.cat(logits)
