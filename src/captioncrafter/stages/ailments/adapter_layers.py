"""Which layers an adapter reaches in its base: dead targets, weights without a layer, parts that nobody meant."""

import difflib
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from captioncrafter import storage
from captioncrafter.errors import counted
from captioncrafter.model.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, layer_of
from captioncrafter.model.stock import Blip2
from captioncrafter.model.targets import linear_layers
from captioncrafter.stages.ailments.documents import keep, may_change
from captioncrafter.stages.ailments.finding import BROKEN, Record
from captioncrafter.stages.ailments.layer_names import by_part, condensed, part_of, text_way

_PREFIX, _HALF = "base_model.model.", "language_model."
_COPY = "Copy both files again from one adapter."


def examine_layers(
    record: Record, folder: Path, written: dict[str, Any], tensors: dict[str, Tensor], model: Blip2
) -> None:
    """Holds names and shapes of the adapter against the base; `written` is its configuration."""
    layers = linear_layers(model)
    known = {name for name, _ in model.named_modules()}
    mine = list(dict.fromkeys(map(layer_of, tensors)))
    _examine_targets(record, folder, written, layers)
    stray = [name for name in mine if name not in known]
    record.facts["layers"] = by_part(name for name in mine if name in known)
    if stray:
        _tell_strays(record, folder, mine, stray, known, tensors)
        return
    _examine_parts(record, folder, mine)
    if tensors and not record.has("dead-targets"):
        _examine_whole(record, folder, tensors, model)


def _examine_targets(record: Record, folder: Path, written: dict[str, Any], layers: list[str]) -> None:
    """Each word of `target_modules` has to match something: PEFT complains only when none of them does."""
    targets = written.get("target_modules")
    words = [targets] if isinstance(targets, str) else list(targets or ())
    if targets == "all-linear":
        return
    for word in map(str, words):
        if isinstance(targets, str):
            matched = any(_full_match(word, name) for name in layers)
        else:
            matched = any(name == word or name.endswith(f".{word}") for name in layers)
        if matched:
            continue
        ends = {name.rsplit(".", 1)[-1] for name in layers}
        near = difflib.get_close_matches(word, ends, n=1, cutoff=0.3)
        record.error(
            "dead-targets",
            folder / ADAPTER_CONFIG,
            f'target_modules "{word}" matches no layer of the base'
            + (f'; closest: "{near[0]}"' if near and not isinstance(targets, str) else ""),
            "Train again with targets that exist (listed); PEFT says nothing as long as one of several matches.",
            details=condensed(layers),
        )


def _full_match(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False


def _tell_strays(
    record: Record, folder: Path, mine: list[str], stray: list[str], known: set[str], tensors: dict[str, Tensor]
) -> None:
    if all(_HALF + name in known for name in mine):
        record.error(
            "half-model",
            folder / ADAPTER_WEIGHTS,
            f"its {counted(len(mine), 'layer is', 'layers are')} called as in the language model alone ({stray[0]}): "
            "it was saved from that half, and over the whole model it does nothing, with a warning only",
            f"Put {_HALF} in front of every layer's name; --fix does.",
            details=condensed(stray),
            repair=_renaming(folder, tensors),
        )
        return
    record.error(
        "stray-layers",
        folder / ADAPTER_WEIGHTS,
        f"{len(stray)} of its {counted(len(mine), 'layer')} not to be found in the base, {stray[0]} first: made for "
        "another base, or for a part of a model",
        "Use the base it was made for.",
        details=condensed(stray),
    )


def _renaming(folder: Path, tensors: dict[str, Tensor]) -> Callable[[], str] | None:
    files = (folder / ADAPTER_WEIGHTS, folder / ADAPTER_CONFIG)
    if not all(map(may_change, files)):
        return None

    def repair() -> str:
        from safetensors.torch import save_file

        renamed = {f"{_PREFIX}{_HALF}{name.removeprefix(_PREFIX)}": tensor for name, tensor in tensors.items()}
        layers = sorted({layer_of(name) for name in renamed if ".lora_" in name})
        kept = [keep(file) for file in files]
        config = storage.read_json(files[1]) | {"target_modules": "|".join(map(re.escape, layers))}
        with storage.replacing(files[0]) as temporary:
            save_file(renamed, temporary, metadata={"format": "pt"})
        storage.write_json(files[1], config)
        done = counted(len(renamed), "weight renamed to that", "weights renamed to those")
        return f"{done} of the whole model{kept[0]}, and target_modules{kept[1]}"

    return repair


def _examine_parts(record: Record, folder: Path, mine: list[str]) -> None:
    if dead := text_way(mine):
        record.warning(
            "dead-layers",
            folder / ADAPTER_WEIGHTS,
            f"{counted(len(dead), 'layer is', 'layers are')} on the Q-Former's way for text, which no image goes: "
            "nothing is learned there",
            "Leave them out: query and value are the Q-Former's usual targets.",
            details=condensed(dead),
        )
    front = [name for name in mine if part_of(name) in ("vision_model", "qformer")]
    if front:
        record.note(
            "reaches-front",
            folder / ADAPTER_WEIGHTS,
            f"it tunes {by_part(front)}; target_modules like all-linear do that where nobody means it",
            "Where only the language model was meant: train again with preset efficient.",
            details=condensed(front),
        )


def _examine_whole(record: Record, folder: Path, tensors: dict[str, Tensor], model: Blip2) -> None:
    """Whether there is a weight of the right shape for all that the configuration reaches, and no other."""
    try:
        wanted = _reached(folder, model)
    except BROKEN as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        record.error("adapter-unusable", folder / ADAPTER_CONFIG, f"PEFT cannot use it ({first})", _COPY)
        return
    lacking = [name for name in wanted if name not in tensors]
    unused = [name for name in tensors if name not in wanted]
    if lacking or unused:
        record.error(
            "half-adapter",
            folder,
            f"{counted(len(lacking), 'weight')} that {ADAPTER_CONFIG} asks for missing in {ADAPTER_WEIGHTS}, and "
            f"{len(unused)} there that it does not ask for, {(lacking or unused)[0]} first",
            _COPY,
            details=tuple(lacking + unused),
        )
    wrong = [
        f"{name} {tuple(tensors[name].shape)} for {shape}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if wrong:
        record.error(
            "shape",
            folder / ADAPTER_WEIGHTS,
            f"{counted(len(wrong), 'weight has', 'weights have')} another shape than base and rank ask for, first "
            f"{wrong[0]}",
            "Use the base it was made for; copy both files from one adapter.",
            details=tuple(wrong),
        )


def _reached(folder: Path, model: Blip2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that PEFT would look for in `folder`."""
    # PEFT imports it, and bitsandbytes 0.50 has a line about what it has not got.
    if (logger := logging.getLogger("bitsandbytes")).level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict

    config = LoraConfig.from_pretrained(str(folder))
    assert isinstance(config, LoraConfig)
    config.init_lora_weights, config.task_type = True, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned: nn.Module = PeftModel(model, config)
        found = get_peft_model_state_dict(tuned, save_embedding_layers=False)  # pyright: ignore[reportArgumentType]
    return {name: tuple(tensor.shape) for name, tensor in found.items()}
