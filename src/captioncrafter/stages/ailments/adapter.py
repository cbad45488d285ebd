"""An adapter: its files, the base it asks for, the layers it reaches there, and the prompt it was tuned with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioncrafter import recipe, storage
from captioncrafter.errors import CheckpointError, InputError, counted
from captioncrafter.generation.origin import CAPTIONING
from captioncrafter.model import checkpoint, lora
from captioncrafter.model.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from captioncrafter.model.checkpoint import IMAGE_TOKEN, Checkpoint
from captioncrafter.stages.ailments.adapter_layers import examine_layers
from captioncrafter.stages.ailments.checkpoint import model_without_weights
from captioncrafter.stages.ailments.documents import read_object
from captioncrafter.stages.ailments.finding import BROKEN, Record
from captioncrafter.stages.ailments.machine import tell_writer
from captioncrafter.stages.ailments.weight_files import pickles_in

_COPY = "Copy the adapter again from where it came."
_CHANGES_BASE = ("pissa", "olora")


@dataclass(frozen=True)
class Named:
    """The base an adapter asks for, and the fingerprint of its weights where the adapter knows one."""

    base: str
    revision: str | None
    weights: str | None


def examine_adapter(record: Record, folder: Path) -> None:
    """Everything about the adapter in `folder` and its base, as far as the base is on this disk."""
    written = read_object(record, folder / ADAPTER_CONFIG, mend=_COPY)
    if written is None and not record.has("damaged-json"):
        record.error("no-adapter", folder / ADAPTER_CONFIG, "missing: nothing says what the weights are for", _COPY)
    settings = read_object(record, folder / CAPTIONING, mend=_COPY)
    tensors = _weights(record, folder)
    if written is None:
        return
    if (kind := written.get("peft_type")) != "LORA":
        record.error(
            "other-adapter", folder / ADAPTER_CONFIG, f"an adapter of the kind {kind}", "LoRA adapters alone are used."
        )
        return
    _examine_words(record, folder, written)
    _examine_settings(record, folder, settings)
    if tensors:
        _examine_values(record, folder, tensors)
    named = _named_base(record, folder, written, settings or {})
    found = base_on_disk(record, named) if named is not None else None
    if found is None:
        return
    with record.attempt("config-unusable", found.folder / "config.json", "captioncrafter doctor " + found.name):
        model = model_without_weights(checkpoint.load_config(found))
        examine_layers(record, folder, written, tensors, model)
    if named is not None:
        _examine_base(record, folder, named, found)


def _weights(record: Record, folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors, some megabytes; empty where they cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        if pickles := pickles_in(folder):
            record.error(
                "pickle-only",
                folder,
                f"the weights are only there as {pickles[0]}: a pickle, which can run code when it is opened, and is "
                "not opened",
                "Where you trust its maker: load it with PEFT and save_pretrained it, which writes safetensors.",
                details=tuple(pickles),
            )
        else:
            record.error("no-weights", file, "missing", _COPY)
        return {}
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        record.error("damaged-weights", file, f"cannot be read ({error})", _COPY)
        return {}


def _examine_words(record: Record, folder: Path, written: dict[str, Any]) -> None:
    where = folder / ADAPTER_CONFIG
    record.facts["rank"] = f"{written.get('r')}, alpha {written.get('lora_alpha')}"
    record.facts["targets"] = written.get("target_modules")
    if version := written.get("peft_version"):
        tell_writer(record, where, version, "peft", "pip install -U peft")
    start = str(written.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        record.warning(
            "changed-base",
            where,
            f"init_lora_weights {start}: it was tuned over a base whose own weights were changed at the start, and "
            "rests on the same change being computed again",
            "Save it as a plain LoRA (PEFT: save_pretrained with path_initial_model_for_weight_conversion).",
        )


def _examine_settings(record: Record, folder: Path, settings: dict[str, Any] | None) -> None:
    """The prompt and the decoding that go with it."""
    where = folder / CAPTIONING
    if settings is None:
        if not where.is_file():
            record.warning(
                "prompt-unknown",
                where,
                "missing: nothing says with which prompt it was tuned; with another one it captions worse, in silence",
                f'Give the prompt with --prompt; without it "{recipe.Model().prompt}" is used.',
            )
        return
    prompt = settings.get("prompt")
    record.facts["prompt"] = prompt
    if not isinstance(prompt, str):
        record.error("prompt-unknown", where, f"its prompt is {prompt!r} and no text", "Write the prompt there.")
    else:
        examine_prompt(record, where, prompt)
    try:
        recipe.check_decoding(settings.get("decoding", {}), source="decoding")
    except InputError as error:
        record.error("decoding", where, str(error), "Correct it, or take decoding out for the defaults.")
    try:
        recipe.Model(precision=settings.get("precision", "auto"))
    except ValueError as error:
        told = str(error).splitlines()[2].strip() if len(str(error).splitlines()) > 2 else str(error)
        record.error("fp16", where, f"precision {settings.get('precision')!r}: {told}", "Set it to auto or bf16.")


def examine_prompt(record: Record, where: object, prompt: str) -> None:
    """What may stand in no prompt."""
    if IMAGE_TOKEN in prompt:
        record.error(
            "positions",
            where,
            f"the prompt {prompt!r} holds {IMAGE_TOKEN}: the processor writes those positions itself, and more of them "
            "than queries is no image",
            f"Take {IMAGE_TOKEN} out of the prompt.",
        )
    if prompt != prompt.strip():
        record.note("prompt", where, f"the prompt {prompt!r} begins or ends with white space", "Take it away.")


def _examine_values(record: Record, folder: Path, tensors: dict[str, Tensor]) -> None:
    where = folder / ADAPTER_WEIGHTS
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        record.error(
            "not-finite",
            where,
            f"NaN or infinity in {len(broken)} of {counted(len(tensors), 'weight')}: training went on after a step "
            "that broke",
            "Train again from a checkpoint before that.",
            details=tuple(broken),
        )
        return
    second = {name: tensor for name, tensor in tensors.items() if ".lora_B." in name}
    idle = [name for name, tensor in second.items() if not bool(tensor.any())]
    if second and len(idle) == len(second):
        record.error(
            "no-effect",
            where,
            f"every one of its {counted(len(second), 'B matrix', 'B matrices')} is zero: it captions exactly as the "
            "base does",
            "It was saved before training, or its weights did not load when it was saved. Train again.",
        )
    elif idle:
        record.warning(
            "dead-layers",
            where,
            f"{len(idle)} of {len(second)} B matrices still zero: nothing was learned there",
            "Leave them out of the targets, or find out why no gradient came there.",
            details=tuple(dict.fromkeys(map(lora.layer_of, idle))),
        )


def _named_base(record: Record, folder: Path, written: dict[str, Any], settings: dict[str, Any]) -> Named | None:
    stock = written.get("base_model_name_or_path")
    name = settings.get("base") or stock
    if not isinstance(name, str) or not name:
        record.error(
            "base-unknown",
            folder / ADAPTER_CONFIG,
            "names no base_model_name_or_path: nobody can tell which model it belongs to",
            "Write the base's hub name or folder there.",
        )
        return None
    record.facts["base"] = name
    if stock and stock != name and name not in checkpoint.bundled():
        record.warning(
            "base-mismatch",
            folder,
            f"{CAPTIONING} asks for {name}, {ADAPTER_CONFIG} for {stock}",
            "The two files are of different adapters, or one was changed: make them agree.",
        )
    return Named(name, settings.get("revision", written.get("revision")), settings.get("weights"))


def base_on_disk(record: Record, named: Named) -> Checkpoint | None:
    """The base, with as much of it as is on this disk; None where not even its configuration is to be had."""
    here = named.base in checkpoint.bundled() or storage.user_path(named.base).is_dir()
    try:
        return checkpoint.find(named.base, named.revision, only_config=not here)
    except (CheckpointError, *BROKEN) as error:
        record.error(
            "base-absent",
            named.base,
            f"this base cannot be had: {str(error).removeprefix(f'{named.base}: ')}",
            "Fetch it, or give the folder of a copy as the base.",
        )
        return None


def _examine_base(record: Record, folder: Path, named: Named, found: Checkpoint) -> None:
    if named.weights is None:
        return
    try:
        weights = found.describe()["weights"]
    except (CheckpointError, *BROKEN):
        record.note(
            "base-not-here", found.name, "its weights are not whole on this disk: whether they are those is not told"
        )
        return
    record.facts["base's weights"] = "those it was tuned on" if weights == named.weights else "others"
    if weights != named.weights:
        record.error(
            "base-mismatch",
            folder / CAPTIONING,
            f"tuned on other weights than those of {found.name} ({found.folder}): captions would be worse, in silence",
            "Give the base it was tuned on"
            + (f", {named.base} at revision {named.revision}." if named.revision else ", or train again on this one."),
        )
