"""Loads a checkpoint's weights, whole or in parts, in the precision asked for.

The model is transformers' `Blip2ForConditionalGeneration`, unmodified, frozen and in eval mode; a part that was not
asked for stays on the meta device and is never read, so that the whole need not fit in memory.
"""

import logging
import warnings
from collections.abc import Collection
from typing import Any

import torch

from captioncrafter.errors import CheckpointError, counted
from captioncrafter.model import weights
from captioncrafter.model.checkpoint import Checkpoint, load_config, load_small_parts, quiet_transformers
from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.hardware import Arithmetic, compute_exactly
from captioncrafter.model.integrity import check_hashes
from captioncrafter.model.stock import Blip2

_HEAD = "language_model.lm_head.weight"
_EMBEDDINGS = ("language_model.shared.weight", "language_model.model.decoder.embed_tokens.weight")
_QUERIES = "query_tokens"
_FRONT = ("vision_model", "qformer", "language_projection")
_T5 = ("language_model.shared", "language_model.encoder", "language_model.decoder", "language_model.lm_head")
_TOGETHER = ("language_model.shared", "language_model.lm_head")
"""transformers 5.23 compares embedding and head while it loads, and cannot where one of them is on the meta device."""

_NEVER_QUANTISED = ["vision_model", "qformer", "language_projection", "lm_head"]


def load_model(
    checkpoint: Checkpoint, *, arithmetic: Arithmetic, device: torch.device, parts: Collection[str] | None = None
) -> Blip2:
    """The model, or those `parts` of it (names like `vision_model`, `language_model.decoder`).

    bitsandbytes is kept from logging, unless a level was set for it. Raises `ValueError` for a part that this model
    does not load apart, `CheckpointError` when a weight is missing, of another shape or damaged, or when the output
    head is not the checkpoint's.
    """
    from safetensors import SafetensorError
    from transformers import Blip2ForConditionalGeneration

    quiet_bitsandbytes()
    compute_exactly(arithmetic, device)
    stored = weights.stored_tensors(checkpoint.folder)
    check_hashes(sorted({tensor.file for tensor in stored.values()}), checkpoint.name)
    config = load_config(checkpoint)
    if config.image_token_index is None:
        # Without the id, the stock forward cannot tell where the image goes; the tokenizer has it.
        config = load_small_parts(checkpoint)[0]
    device_map = _device_map(config, device, parts)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*device_map keys do not match any submodules"
            )  # query_tokens, see below
            loaded: Any = Blip2ForConditionalGeneration.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=arithmetic.dtype,
                quantization_config=_quantisation(arithmetic, device_map),
                device_map=device_map,
                # Eager attention adds a boolean mask to the scores instead of masking them: another loss, no error.
                attn_implementation="sdpa",
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{checkpoint.name}: its weights cannot be read ({error}). Fetch them again.") from error
    model, report = loaded
    mismatched = (f"{name} {tuple(found)} for {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"])
    missing = sorted({*report["missing_keys"], *mismatched, *_tied_for_lack_of(config, stored)})
    if missing := [name for name in missing if parts is None or _is_in(name, parts)]:
        found = stored.get(missing[0].split(" ")[0])
        raise CheckpointError(
            f"{checkpoint.name}: {counted(len(missing), 'weight is', 'weights are')} missing or of another shape, "
            f"{missing[0]} first{f' (in {found.file})' if found else ''}: the checkpoint does not fit its config.json."
        )
    _without_hooks(model)
    _without_packing(model)
    if model.query_tokens.is_meta and (parts is None or _is_in(_QUERIES, parts)):
        # A parameter of the model itself, not of a module: a device map cannot say where it goes.
        model.query_tokens = torch.nn.Parameter(_read(stored[_QUERIES]).to(device, arithmetic.dtype))
    if parts is None or _is_in(_HEAD, parts):
        check_head(model, stored, checkpoint.name)
    return model.eval().requires_grad_(False)


def quiet_bitsandbytes() -> None:
    """Lets bitsandbytes log errors only: 0.50 has a line for every call of an int8 layer, and one at its import.

    PEFT imports it over any model where it is installed.
    """
    logger = logging.getLogger("bitsandbytes")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)


def _quantisation(arithmetic: Arithmetic, device_map: dict[str, Any]) -> Any:
    """What transformers is told to quantise: nothing that stays on the meta device, where bitsandbytes has no int8."""
    absent = {name for name, place in device_map.items() if place == "meta"}
    language_model = {name for name in device_map if not name or name.startswith("language_model")}
    if arithmetic.quantised is None or language_model <= absent:
        return None
    from transformers import BitsAndBytesConfig

    kept = [*_NEVER_QUANTISED, *sorted(absent)]
    if arithmetic.quantised == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=arithmetic.dtype,
        llm_int8_skip_modules=kept,
    )


def _device_map(config: Any, device: torch.device, parts: Collection[str] | None) -> dict[str, Any]:
    if parts is None:
        return {"": device}
    names = (*_FRONT, *(("language_model",) if is_decoder_only(config) else _T5))
    known = (*names, _QUERIES)
    if unknown := [part for part in parts if not any(_is_in(name, [part]) for name in known)]:
        raise ValueError(
            f"no part that can be loaded apart is called {', '.join(unknown)}; there are {', '.join(known)}"
        )
    wanted = {name for name in names if _is_in(name, parts)}
    if not wanted.isdisjoint(_T5):
        wanted.update(_TOGETHER)
    return {_QUERIES: "meta"} | {name: device if name in wanted else "meta" for name in names}


def _is_in(name: str, parts: Collection[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _without_hooks(model: Blip2) -> None:
    """Takes off what accelerate put on for parts that are elsewhere: nothing here is moved while it runs."""
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
    for module in model.modules():
        # accelerate 1.15 puts back what it replaced as the module's own attribute: a cycle, which would hold one half's
        # weights in memory while the other is loaded.
        for name in ("forward", "to", "cuda"):
            module.__dict__.pop(name, None)
    model.__dict__.pop("hf_device_map", None)


def _without_packing(model: Blip2) -> None:
    """Keeps bitsandbytes from packing 4-bit weights for the CPU's bfloat16 units when a layer first runs in eval mode.

    bitsandbytes 0.50 has no gradient through what it packs: training after a validation would be wrong in silence.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _tied_for_lack_of(config: Any, stored: dict[str, weights.StoredTensor]) -> list[str]:
    """Names of T5's head and embedding where a weight of its own is missing, which transformers fills with the other.

    transformers 5 ties both whatever the checkpoint says, and keeps what it said as `scale_decoder_outputs`.
    """
    if is_decoder_only(config) or getattr(config.text_config, "scale_decoder_outputs", True):
        return []
    return [name for name in (_HEAD, _EMBEDDINGS[0]) if name not in stored]


def check_head(model: Blip2, stored: dict[str, weights.StoredTensor], name: str) -> None:
    """Raises `CheckpointError` when the checkpoint has an output head of its own and the model does not use it.

    flan-T5's head differs from its embedding, yet transformers 5 sets `tie_word_embeddings` and can tie them in
    silence: fluent training, garbage captions.
    """
    embeddings = [stored[embedding] for embedding in _EMBEDDINGS if embedding in stored]
    if _HEAD not in stored or not embeddings:
        return
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    own = _read(stored[_HEAD])
    if head.weight.data_ptr() == embedding.weight.data_ptr() and not torch.equal(own, _read(embeddings[0])):
        raise CheckpointError(f"{name}: the output head was tied to the embedding, but the checkpoint has its own.")
    if not torch.equal(head.weight.detach(), own.to(head.weight)):
        raise CheckpointError(f"{name}: the output head in memory is not the checkpoint's {_HEAD}.")


def _read(tensor: weights.StoredTensor) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(tensor.file, framework="pt") as file:
        return file.get_tensor(tensor.name)
