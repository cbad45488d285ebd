"""What comparisons are tested with: predictions files, and run folders without a model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioncrafter.data.splits import load_splits
from captioncrafter.recipe import Data, Evaluation
from tiny import tiny_recipe

FAST = Evaluation(resamples=300)

VALIDATION = range(6, 10)


def write_predictions(path: Path, captions: Mapping[str, str]) -> Path:
    """JSON lines, one an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"image_id": one, "caption": text}) + "\n" for one, text in captions.items()))
    return path


def pictures(*captions: str) -> dict[str, str]:
    """These captions, in turn, for the validation images."""
    return {f"picture-{number}.png": captions[number % len(captions)] for number in VALIDATION}


def write_run(folder: Path, dataset: Path, captions: Mapping[str, str], **scores: Any) -> Path:
    """A run folder without a model, evaluated on the validation images."""
    write_predictions(folder / "predictions.jsonl", captions)
    (folder / "recipe.json").write_text(json.dumps(tiny_recipe(Path("a/checkpoint"), dataset).model_dump(mode="json")))
    data = load_splits(Data(path=str(dataset)))["validation"].fingerprint()
    (folder / "scores.json").write_text(json.dumps({"split": "validation", "data": data} | scores))
    return folder


def write_seeds(folder: Path, dataset: Path, captions: Sequence[Mapping[str, str]]) -> Path:
    """What `train --seeds` leaves: seeds 0, 1, …, each with these captions in turn."""
    for seed, some in enumerate(captions):
        write_run(folder / f"seed-{seed}", dataset, some)
    (folder / "seeds.json").write_text(json.dumps({"runs": {str(seed): {} for seed in range(len(captions))}}))
    return folder
