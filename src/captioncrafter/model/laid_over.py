"""An adapter over a base that is not in memory: what it reaches and changes, without a weight of the base.

An adapter that its start tied to a changed base, or that is spoilt, is refused here.
"""

from pathlib import Path

import torch

from captioncrafter import storage
from captioncrafter.errors import CheckpointError
from captioncrafter.model.adapters import ADAPTER_CONFIG, adapter_tensors, check_fits, check_whole, stored_adapter
from captioncrafter.model.loading import quiet_bitsandbytes
from captioncrafter.model.stock import Blip2, Tuned

_LEAVES_BASE = (True, False, "gaussian", "orthogonal", "eva", "mica")
"""Starts after which the base is what it was before (PEFT's `init_lora_weights`)."""


def laid_over(model: Blip2, adapter: Path) -> Tuned:
    """`model`, which has no memory, with the adapter in `adapter`, whose own weights are in memory, in float32.

    Raises `CheckpointError` when the adapter is damaged, does not fit this model, or was made over a base that its
    start had changed.
    """
    quiet_bitsandbytes()  # before PEFT, which imports it
    from peft import LoraConfig, PeftModel
    from safetensors import SafetensorError

    check_fits(model, adapter)
    _refuse_changed_base(adapter)
    _refuse_not_finite(adapter)
    try:
        config = LoraConfig.from_pretrained(str(adapter))
        assert isinstance(config, LoraConfig)
        config.init_lora_weights = True  # what PEFT draws is replaced, and some starts would decompose weights
        tuned = PeftModel(model, config, low_cpu_mem_usage=True)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{adapter}: the adapter cannot be loaded ({error}).") from error
    check_whole(tuned, adapter)
    _fill(tuned, adapter)
    return tuned.eval()


def _fill(tuned: Tuned, adapter: Path) -> None:
    """Puts an adapter's weights in place; PEFT's own loading moves them to where the base is, which is nowhere."""
    from peft import get_peft_model_state_dict

    stored, empty = stored_adapter(adapter), adapter_tensors(tuned)
    names = {id(tensor): name for name, tensor in empty.items()}
    reached = get_peft_model_state_dict(tuned, state_dict=empty, save_embedding_layers=False)
    strange = [name for name, tensor in reached.items() if stored[name].shape != tensor.shape]
    if strange:
        first = strange[0]
        raise CheckpointError(
            f"{adapter}: {len(strange)} of its weights do not fit their layers, {first} first ("
            f"{tuple(stored[first].shape)} for {tuple(reached[first].shape)}): it was made for another base."
        )
    filled = {names[id(tensor)]: stored[name].float() for name, tensor in reached.items()}
    tuned.load_state_dict(filled, strict=False, assign=True)


def _refuse_changed_base(adapter: Path) -> None:
    start = storage.read_json(adapter / ADAPTER_CONFIG).get("init_lora_weights", True)
    if start not in _LEAVES_BASE:
        raise CheckpointError(
            f"{adapter / ADAPTER_CONFIG}: init_lora_weights {start!r} changed the base's own weights before training, "
            "so the adapter does not belong to the base as it is loaded. Save it as a plain LoRA first (PEFT: "
            "save_pretrained with path_initial_model_for_weight_conversion)."
        )


def _refuse_not_finite(adapter: Path) -> None:
    broken = [name for name, tensor in stored_adapter(adapter).items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(
            f"{adapter}: {len(broken)} of its weights hold NaN or infinity, {broken[0]} first: it is spoilt. "
            f"`captioncrafter doctor {adapter}` lists them."
        )
