"""The head of a model card: what the Hugging Face Hub reads of an adapter, its scores in `model-index` among it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioncrafter import events, storage
from captioncrafter.data.audit import AUDIT
from captioncrafter.errors import DataError
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.recipe import Data
from captioncrafter.report.content import in_order

# The hub's list of tasks has image captioning under this name (hf.co/tasks/image-to-text); that transformers 5 dropped
# its pipeline of the same name changes nothing there.
TASK = "image-to-text"
_METRIC_TYPES = {
    **{f"BLEU-{order}": "bleu" for order in (1, 2, 3, 4)},
    "METEOR": "meteor",
    "ROUGE-L": "rouge",
    "CIDEr": "cider",
    "CLIPScore": "clip_score",
    "RefCLIPScore": "ref_clip_score",
    "SPICE": "spice",
    "exact match": "exact_match",
    "VQA accuracy": "vqa_accuracy",
}
_PUBLISHED = {"Flickr8k.token.txt": "Flickr8k", "results_20130124.token": "Flickr30k"}


@dataclass(frozen=True)
class Origin:
    """Where the captions came from: a `name` to print, its name on the hub and their language where those are known."""

    name: str
    dataset: str | None
    language: str | None
    licence: str | None

    @classmethod
    def of(cls, data: Data) -> "Origin":
        """Of a folder only the last name, for a card is published and a path is its writer's own.

        A folder that `captioncrafter prepare` wrote tells in its audit what it was made from.
        """
        if data.path is None:
            return cls("drawn scenes", None, "en", None)
        audit = _audit(storage.user_path(data.path))
        published = next((name for file, name in _PUBLISHED.items() if file in audit.get("files", {})), None)
        return cls(
            one_line(Path(data.path).name),
            published.lower() if published else None,
            "en" if published else None,
            one_line(audit["licence"]) if audit.get("licence") else None,
        )

    @property
    def slug(self) -> str:
        """A name fit for an identifier."""
        return self.dataset or re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "images"


def metadata(base: Checkpoint, origin: Origin, scores: Mapping[str, Any] | None) -> str:
    """The YAML between the dashes.

    `scores` are left out of it when they are of a part of the images, or of images seen in training: a leaderboard
    shows no warnings.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=base.name if base.on_hub else None,
        base_model_relation="adapter" if base.on_hub else None,
        library_name="peft",
        pipeline_tag=TASK,
        language=origin.language,
        datasets=[origin.dataset] if origin.dataset else None,
        metrics=_types(scores) if scores else None,
        tags=["image-captioning", "blip-2", "lora", "captioncrafter"],
        model_name=f"{Path(public_name(base)).name}, LoRA on {origin.name}",
        eval_results=_results(origin, scores) if scores and comparable(scores) else None,
    )
    if data.eval_results is None:
        data.model_name = None
    return f"---\n{data.to_yaml()}\n---"


def comparable(scores: Mapping[str, Any]) -> bool:
    """Whether scores may stand beside others of the same images: of all of them, and of none that was trained on."""
    return not scores.get("partial") and not scores.get("seen_in_training", {}).get("images")


def public_name(base: Checkpoint) -> str:
    """What a base is called outside this machine: its hub or bundled name, or its folder's own."""
    return one_line(base.name if base.on_hub else Path(base.name).name)


def one_line(text: str) -> str:
    """A name or sentence without line breaks and control characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _audit(folder: Path) -> Mapping[str, Any]:
    """What `prepare` kept beside the images; nothing when it is not there. A damaged one is no reason to stop."""
    if not (folder / AUDIT).is_file():
        return {}
    try:
        audit = storage.read_json(folder / AUDIT)
    except DataError as error:
        events.warn(f"the model card tells nothing of the data's licence: {error}")
        return {}
    return audit if isinstance(audit, dict) else {}


def _types(scores: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(_type(name) for name in in_order(scores["metrics"])))


def _type(metric: str) -> str:
    return _METRIC_TYPES.get(metric, re.sub(r"[^a-z0-9]+", "_", metric.lower()).strip("_"))


def _results(origin: Origin, scores: Mapping[str, Any]) -> list[Any]:
    """Each metric × 100, as `huggingface_hub` takes evaluation results."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=TASK,
            task_name="Image captioning",
            dataset_type=origin.slug,
            dataset_name=origin.name,
            dataset_split=scores.get("split"),
            metric_type=_type(metric),
            metric_name=one_line(metric),
            metric_value=round(100 * scores["metrics"][metric]["value"], 2),
        )
        for metric in in_order(scores["metrics"])
    ]
