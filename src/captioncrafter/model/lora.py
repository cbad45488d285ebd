"""LoRA by PEFT on exactly the layers a recipe names, and adapters that stock PEFT loads.

The adapter is attached to the whole `Blip2ForConditionalGeneration`, so its key names are the stock model's even
when the vision half has left memory.
"""

import difflib
import json
import re
import warnings
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from captioncrafter import recipe
from captioncrafter.errors import CheckpointError, RecipeError
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.stock import Blip2, Tuned

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def attach(model: Blip2, lora: recipe.Lora, *, seed: int) -> Tuned:
    """`model` with a fresh adapter: A drawn from `seed`, B zero, float32, the only weights that train.

    Raises `RecipeError` when a target matches no linear layer inside the recipe's parts.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    target_layers(model, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType] # PEFT scales by alpha / r whatever its type
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=target_pattern(lora),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuned = get_peft_model(model, config)
    assert isinstance(tuned, PeftModel)
    return tuned


def target_layers(model: nn.Module, lora: recipe.Lora) -> list[str]:
    """Full names of the linear layers that `lora` reaches, in model order."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    inside = [name for name in linear if name.startswith(tuple(f"{part}." for part in lora.parts))]
    for target in lora.targets:
        if not any(_ends_with(name, target) for name in inside):
            raise RecipeError(_no_match(target, lora, linear, inside))
    pattern = re.compile(target_pattern(lora))
    return [name for name in linear if pattern.fullmatch(name)]


def target_pattern(lora: recipe.Lora) -> str:
    """The regular expression for PEFT's `target_modules`; it matches full layer names of the stock model."""
    parts = "|".join(re.escape(part) for part in lora.parts)
    targets = "|".join(re.escape(target) for target in lora.targets)
    return rf"(?:{parts})\.(?:.*\.)?(?:{targets})"


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _no_match(target: str, lora: recipe.Lora, linear: list[str], inside: list[str]) -> str:
    counts = Counter(name.rsplit(".", 1)[-1] for name in inside)
    near = difflib.get_close_matches(target, counts, n=1, cutoff=0.3)
    listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
    elsewhere = sum(_ends_with(name, target) for name in linear)
    return (
        f'lora.targets "{target}" matches no layer of {", ".join(lora.parts)}'
        + (f" (though {elsewhere} outside of it)" if elsewhere else "")
        + "."
        + (f' Closest: "{near[0]}" ({counts[near[0]]} layers).' if near else "")
        + f" Layers there: {listed}."
    )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, in model order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapter(tuned: Tuned, base: Checkpoint, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` in stock PEFT layout into `folder`.

    The configuration names `base` as anyone would load it, not the folder of this machine's hub cache.
    """
    config = tuned.peft_config["default"]
    config.base_model_name_or_path, config.revision = base.loadable_name, base.revision
    # PEFT would ask the hub whether the vocabulary grew; it never does here.
    tuned.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)


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
    _check_whole(tuned, folder)
    return tuned.eval()


def _check_whole(tuned: Tuned, folder: Path) -> None:
    """Raises `CheckpointError` when a layer that the adapter's configuration reaches has no weights in `folder`."""
    reached = [name.replace(".default.", ".") for name, _ in tuned.named_parameters() if ".lora_" in name]
    stored = stored_adapter(folder)
    lacking = [name for name in reached if name not in stored]
    if lacking:
        raise CheckpointError(
            f"{folder}: {len(lacking)} of the {len(reached)} weights that {ADAPTER_CONFIG} asks for are not in "
            f"{ADAPTER_WEIGHTS}, {lacking[0]} first. Copy the adapter again."
        )


def merge(tuned: Tuned) -> Blip2:
    """The stock model with the adapter added into its weights (W + BA · alpha / rank); no adapter is left.

    Raises `CheckpointError` when that tied an output head of its own to the embedding.
    """
    tied_before = _head_is_tied(tuned.get_base_model())
    merged = tuned.merge_and_unload()
    if _head_is_tied(merged) and not tied_before:
        raise CheckpointError("merging tied the output head to the embedding: use the adapter unmerged.")
    return merged


def _head_is_tied(model: Blip2) -> bool:
    return model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def check_fits(model: nn.Module, folder: Path) -> None:
    """Raises `CheckpointError` unless every weight of the adapter in `folder` has its layer in `model`."""
    names = stored_adapter(folder).keys()
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    stray = [name for name in names if layer_of(name) not in layers]
    if not names or stray:
        first = f", {stray[0]} first" if stray else ""
        raise CheckpointError(
            f"{folder}: {len(stray)} of the adapter's {len(names)} weights belong to no layer of this model{first}. "
            "It was made for another base, or saved from a part of the model only."
        )


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
    """The full layer name, in the stock model, that the adapter weight `name` belongs to."""
    return name.removeprefix("base_model.model.").split(".lora_", 1)[0]
