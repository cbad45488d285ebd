"""Which features may stand for which image: everything they depend on, in one hash."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from captioncrafter import storage
from captioncrafter.errors import CheckpointError
from captioncrafter.model import weights
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.cut import Cut, parts_before
from captioncrafter.model.prompts import Prompt
from captioncrafter.model.stock import Processor

_FORMAT = 2
_SETTINGS = {
    "vision_model": "vision_config",
    "qformer": "qformer_config",
    "language_model.encoder": "text_config",
}


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on besides image and prompt: frozen weights, their settings, processor, precision, cut.

    `facts` are written beside the features for a reader; `digest` (hex) names their folder. Another value of any of
    them is another folder, so a stale answer is impossible.
    """

    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        """The hash of the facts, 32 hex digits."""
        text = json.dumps(self.facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def feature_key(
    checkpoint: Checkpoint, processor: Processor, cut: Cut, *, computed_in: str, stored_as: str
) -> FeatureKey:
    """The key of what `checkpoint` makes of images up to `cut`, computed in one precision, stored under a dtype policy.

    Reads every byte of the frozen prefix's weights (some seconds for the 4 GB of blip2-flan-t5-xl's vision half).
    Raises `CheckpointError` when a frozen part has no weights under its name: checkpoints that differ in it would
    share a key.
    """
    parts = parts_before(cut)
    _check_frozen_parts(checkpoint, parts)
    config = storage.read_json(checkpoint.folder / "config.json")
    settings = processor.image_processor.to_dict()
    facts = {
        "format": _FORMAT,
        "cut": str(cut),
        "weights": weights.fingerprint(checkpoint.folder, lambda name: _is_in(name, parts)),
        "model": {key: config.get(key) for part, key in _SETTINGS.items() if part in parts},
        "processor": json.loads(json.dumps(settings, default=str)),
        "computed_in": computed_in,
        "stored_as": stored_as,
    }
    return FeatureKey(facts)


def feature_name(image: str, prompt: Prompt, cut: Cut) -> str:
    """What a store calls the features of an image (the hash of its bytes): behind T5's encoder, prompt included."""
    if cut is not Cut.ENCODER:
        return image
    words = hashlib.sha256(json.dumps(prompt.words.tolist()).encode()).hexdigest()[:16]
    return f"{image}-{words}"


def _is_in(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _check_frozen_parts(checkpoint: Checkpoint, parts: tuple[str, ...]) -> None:
    names = weights.stored_tensors(checkpoint.folder)
    for part in parts:
        if not any(_is_in(name, (part,)) for name in names):
            raise CheckpointError(
                f'{checkpoint.folder}: no tensor is named "{part}…", so its features could not be told from those of '
                "another checkpoint. Load it as Blip2ForConditionalGeneration and save it with save_pretrained."
            )
