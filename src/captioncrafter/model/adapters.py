"""Adapters on disk, in stock PEFT layout: what is written loads on the untouched base with PEFT alone.

Weights that another base, a part of a model or a torn copy left behind are refused, where PEFT only warns.
"""

import copy
import json
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from captioncrafter.errors import CheckpointError
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.stock import Blip2, Tuned
from captioncrafter.model.targets import linear_layers

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

START = "captioncrafter_start"
"""The attribute of a tuned model that holds the adapter it started with, where that start changed the base."""


def save_adapter(tuned: Tuned, base: Checkpoint, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` in stock PEFT layout into `folder`.

    An adapter that started by changing the base (PiSSA, OLoRA) is written as the LoRA of twice the rank that does the
    same to the untouched base. The configuration names `base` as anyone would load it, not the folder of this
    machine's hub cache.
    """
    trained = tuned.peft_config["default"]
    stock, tensors = copy.copy(trained), adapter_tensors(tuned)
    stock.base_model_name_or_path, stock.revision = base.loadable_name, base.revision
    stock.init_lora_weights = True  # how it started is no matter any more, and some starts need unquantised weights
    if start := getattr(tuned, START, None):
        stock.r = 2 * trained.r
        stock.lora_alpha = trained.lora_alpha * (math.sqrt(2) if trained.use_rslora else 2)
        tensors = {name: _change_since(start[name], tensor, name) for name, tensor in tensors.items()}
    tuned.peft_config["default"] = stock
    try:
        # PEFT would ask the hub whether the vocabulary grew; it never does here.
        tuned.save_pretrained(str(folder), state_dict=tensors, safe_serialization=True, save_embedding_layers=False)
    finally:
        tuned.peft_config["default"] = trained


def adapter_tensors(tuned: Tuned) -> dict[str, Tensor]:
    """All tensors of the adapter, whether they train or not, by their names in memory and in model order."""
    return {
        name: parameter.detach()
        for name, parameter in tuned.named_parameters()
        if ".lora_" in name or ".modules_to_save." in name
    }


def _change_since(start: Tensor, tensor: Tensor, name: str) -> Tensor:
    """A half of BA − B₀A₀ = [B, −B₀][A; A₀], which is what training added to the base; other tensors as they are.

    DoRA's magnitudes stay too: W₀ + BA − B₀A₀ is the matrix that they were learned for.
    """
    if ".lora_A." in name:
        return torch.cat([tensor, start.to(tensor)], dim=0)
    if ".lora_B." in name:
        return torch.cat([tensor, -start.to(tensor)], dim=1)
    return tensor


def load_adapter(model: Blip2, folder: Path) -> Tuned:
    """`model` with the adapter in `folder`, frozen and in eval mode.

    Raises `CheckpointError` when the folder holds no adapter, or one whose layers are not all this model's: PEFT
    itself only warns then, and the captions are silently the base model's.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    check_fits(model, folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
            tuned = PeftModel.from_pretrained(model, str(folder))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: the adapter cannot be loaded ({error}).") from error
    check_whole(tuned, folder)
    return tuned.eval()


def check_whole(tuned: Tuned, folder: Path) -> None:
    """Raises `CheckpointError` unless `folder` holds a weight for all that its configuration reaches, and no other."""
    from peft import get_peft_model_state_dict

    reached = get_peft_model_state_dict(tuned, state_dict=adapter_tensors(tuned), save_embedding_layers=False)
    stored = stored_adapter(folder)
    lacking = [name for name in reached if name not in stored]
    if lacking:
        raise CheckpointError(
            f"{folder}: {len(lacking)} of the {len(reached)} weights that {ADAPTER_CONFIG} asks for are not in "
            f"{ADAPTER_WEIGHTS}, {lacking[0]} first. Copy the adapter again."
        )
    unused = [name for name in stored if name not in reached]
    if unused:
        raise CheckpointError(
            f"{folder}: {ADAPTER_CONFIG} has no use for {len(unused)} of the {len(stored)} weights in "
            f"{ADAPTER_WEIGHTS}, {unused[0]} first: the two files are of different adapters. Copy both again."
        )


def check_fits(model: nn.Module, folder: Path) -> None:
    """Raises `CheckpointError` unless every weight of the adapter in `folder` has its layer in `model`."""
    names = stored_adapter(folder).keys()
    layers = set(linear_layers(model))
    stray = [name for name in names if layer_of(name) not in layers]
    if not names or stray:
        first = f", {stray[0]} first" if stray else ""
        raise CheckpointError(
            f"{folder}: {len(stray)} of the adapter's {len(names)} weights belong to no layer of this model{first}. "
            "It was made for another base, or saved from a part of the model only."
        )


def stored_layers(folder: Path) -> tuple[str, ...]:
    """Full stock names of the layers that the adapter in `folder` changes, sorted."""
    return tuple(sorted({layer_of(name) for name in stored_adapter(folder)}))


def stored_adapter(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors as they lie in `folder`, by name."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / ADAPTER_WEIGHTS
    if not file.is_file() or not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: no adapter ({ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} belong there). "
            "Give the adapter folder of a run, for example runs/NAME/adapter."
        )
    try:
        kind = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["peft_type"]
        tensors = load_file(file)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: the adapter is damaged ({error}). Copy it again.") from error
    if kind != "LORA":
        raise CheckpointError(f"{folder}: an adapter of the kind {kind}; CaptionCrafter uses LORA.")
    return tensors


def layer_of(name: str) -> str:
    """The full layer name, in the stock model, that the adapter weight `name` belongs to, in memory or on disk."""
    name = name.removeprefix("base_model.model.")
    for inside in (".lora_", ".modules_to_save."):
        if inside in name:
            return name.split(inside, 1)[0]
    return name.rsplit(".", 1)[0]
