"""Which features may stand for which image: everything they depend on, in one hash."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

from captioncrafter import runs
from captioncrafter.errors import CheckpointError
from captioncrafter.model import weights
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.stock import Processor

_FORMAT = 1
_FROZEN_PREFIX = ("vision_model.", "qformer.", "query_tokens")
_FROZEN_SETTINGS = ("vision_config", "qformer_config")


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on besides the image: frozen weights, their settings, processor, precision, cut.

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
    checkpoint: Checkpoint, processor: Processor, *, computed_in: torch.dtype, stored_as: str
) -> FeatureKey:
    """The key of the Q-Former outputs of `checkpoint`, computed in one dtype and stored under a dtype policy.

    Reads every byte of the vision half's weights (some seconds for the 4 GB of blip2-flan-t5-xl). Raises
    `CheckpointError` when a frozen part has no weights under its name: checkpoints that differ in it would share a key.
    """
    _check_frozen_parts(checkpoint)
    config = runs.read_json(checkpoint.folder / "config.json")
    settings = processor.image_processor.to_dict()
    facts = {
        "format": _FORMAT,
        "cut": "qformer",
        "weights": weights.fingerprint(checkpoint.folder, lambda name: name.startswith(_FROZEN_PREFIX)),
        "model": {name: config.get(name) for name in _FROZEN_SETTINGS},
        "processor": json.loads(json.dumps(settings, default=str)),
        "computed_in": str(computed_in).removeprefix("torch."),
        "stored_as": stored_as,
    }
    return FeatureKey(facts)


def _check_frozen_parts(checkpoint: Checkpoint) -> None:
    names = weights.stored_tensors(checkpoint.folder)
    for prefix in _FROZEN_PREFIX:
        if not any(name.startswith(prefix) for name in names):
            raise CheckpointError(
                f'{checkpoint.folder}: no tensor is named "{prefix}…", so its features could not be told from those of '
                "another checkpoint. Load it as Blip2ForConditionalGeneration and save it with save_pretrained."
            )
