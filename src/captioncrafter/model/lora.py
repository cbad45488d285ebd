"""LoRA by PEFT on exactly the layers a recipe names, and adapters that stock PEFT loads.

The adapter is attached to the whole `Blip2ForConditionalGeneration`, so its key names are the stock model's even
when the vision half has left memory.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from captioncrafter import recipe
from captioncrafter.errors import CheckpointError, RecipeError
from captioncrafter.model.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    START,
    adapter_tensors,
    check_fits,
    layer_of,
    load_adapter,
    save_adapter,
    stored_adapter,
    stored_layers,
)
from captioncrafter.model.loading import quiet_bitsandbytes
from captioncrafter.model.stock import Blip2, Tuned
from captioncrafter.model.targets import PROJECTION, peft_pattern, planned_layers, reach_of, target_layers

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "attach",
    "check_fits",
    "exact_start",
    "layer_of",
    "load_adapter",
    "merge",
    "planned_layers",
    "save_adapter",
    "start_fingerprint",
    "stored_adapter",
    "stored_layers",
    "target_layers",
    "trainable",
    "trained_layers",
]

_FROM_WEIGHTS = ("pissa", "pissa_niter_16", "olora", "mica")
_CHANGES_BASE = ("pissa", "pissa_niter_16", "olora")


def attach(model: Blip2, lora: recipe.Lora, *, seed: int) -> Tuned:
    """`model` with a fresh adapter, drawn from `seed`: float32 whatever the base is, the only weights that train.

    PiSSA and OLoRA move what they start from out of the base's weights; `save_adapter` puts it back. Raises
    `RecipeError` when a target matches no linear layer, or when a layer does not allow such a start.
    """
    quiet_bitsandbytes()  # before PEFT, which imports it
    from peft import LoraConfig, PeftModel, get_peft_model

    _check_start(model, lora)
    projection = reach_of(model.config, lora).projection
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType] # PEFT scales by alpha / r whatever its type
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=peft_pattern(model, lora),
        modules_to_save=[PROJECTION] if projection else None,
        init_lora_weights=True if lora.init == "kaiming" else lora.init,  # pyright: ignore[reportArgumentType]
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
    )
    with _drawing_from(seed, model):
        tuned = get_peft_model(model, config)
    assert isinstance(tuned, PeftModel)
    if projection:
        _train_in_float32(tuned)
    if lora.use_dora:
        _measure_magnitudes(tuned)
    if lora.init in _CHANGES_BASE:
        start = {name: tensor.detach().to("cpu", copy=True) for name, tensor in adapter_tensors(tuned).items()}
        setattr(tuned, START, start)
    return tuned


def _check_start(model: Blip2, lora: recipe.Lora) -> None:
    """Raises `RecipeError` where PEFT would make an adapter of another rank, or change a weight that others use."""
    if lora.init not in _FROM_WEIGHTS:
        return
    holders: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holders.setdefault(id(parameter), []).append(name)
    for name in target_layers(model, lora):
        layer = model.get_submodule(name)
        shared = holders[id(layer.weight)]
        if lora.init in _CHANGES_BASE and len(shared) > 1:
            raise RecipeError(
                f'lora.init "{lora.init}" would change {name}, whose weight is also {shared[0]}. '
                "Leave it out of lora.targets, or take another start."
            )
        if lora.rank > (limit := min(layer.in_features, layer.out_features)):
            raise RecipeError(f'lora.rank {lora.rank} with init "{lora.init}": {name} allows {limit} at most.')


@contextmanager
def _drawing_from(seed: int, model: Blip2) -> Iterator[None]:
    """Draws on the CPU and on the model's GPUs come from `seed`; their global state is put back afterwards."""
    devices = sorted({parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


def _train_in_float32(tuned: Tuned) -> None:
    """The trained copy of the projection in float32; PEFT leaves it in the base's precision.

    The stock model hands it the Q-Former's output in the base's precision and takes any precision back.
    """
    projection = tuned.get_base_model().get_submodule(PROJECTION).modules_to_save["default"].float()
    projection.register_forward_pre_hook(_to_weight_dtype)


def _to_weight_dtype(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weight = layer.get_parameter("weight")
    return tuple(one.to(weight.dtype) for one in inputs)


def _measure_magnitudes(tuned: Tuned) -> None:
    """DoRA's magnitudes from the float32 adapter: PEFT took them in the base's precision, up to 0.4 % off in bf16."""
    for layer in tuned.modules():
        if "default" in getattr(layer, "lora_magnitude_vector", {}):
            layer.lora_magnitude_vector["default"].update_layer(
                base_layer=layer.get_base_layer(),
                lora_A=layer.lora_A["default"].weight,
                lora_B=layer.lora_B["default"].weight,
                scaling=layer.scaling["default"],
            )


def exact_start(tuned: Tuned, lora: recipe.Lora) -> bool:
    """Whether a fresh adapter leaves the model's outputs as they are to the last bit; others do up to rounding.

    So does the trained projection over a base in bfloat16: it computes in float32, and rounds once.
    """
    projection = tuned.get_base_model().get_submodule(PROJECTION)
    rounds = hasattr(projection, "modules_to_save") and projection.original_module.weight.dtype != torch.float32
    return lora.init in ("kaiming", "gaussian", "mica") and not lora.use_dora and not rounds


def start_fingerprint(tuned: Tuned) -> str:
    """What tells one start from another where the base was changed by it (PiSSA, OLoRA); else empty.

    Weights trained over one start are worthless over another, and decompositions differ between machines: a run may
    go on only where this is the same.
    """
    digest = hashlib.sha256()
    start = getattr(tuned, START, {})
    for name in sorted(start):
        digest.update(name.encode())
        digest.update(start[name].contiguous().numpy().tobytes())
    return digest.hexdigest() if start else ""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, in model order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_layers(tuned: Tuned) -> tuple[str, ...]:
    """Full stock names of the layers in which something trains, in model order."""
    return tuple(dict.fromkeys(layer_of(name) for name in trainable(tuned)))


def merge(tuned: Tuned) -> Blip2:
    """The stock model with the adapter in its weights, trained projection included; no adapter is left.

    Raises `CheckpointError` over a quantised base, and when merging tied an output head of its own to the embedding.
    """
    base = tuned.get_base_model()
    if not all(parameter.is_floating_point() for parameter in base.parameters()):
        raise CheckpointError(
            "a quantised base holds no merged adapter: use it unmerged, or load the base in bf16 to merge."
        )
    tied_before = _head_is_tied(base)
    if tied_before and hasattr(base.get_output_embeddings(), "lora_A"):
        raise CheckpointError(
            "the adapter tunes an output head that this model shares with its embedding: use the adapter unmerged."
        )
    dtype = base.get_output_embeddings().weight.dtype
    merged = tuned.merge_and_unload()
    merged.get_submodule(PROJECTION).to(dtype)
    if _head_is_tied(merged) and not tied_before:
        raise CheckpointError("merging tied the output head to the embedding: use the adapter unmerged.")
    return merged


def _head_is_tied(model: Blip2) -> bool:
    return model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
