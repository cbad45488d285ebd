"""A base model: its configuration, processor and weights, and whether they fit together. Loads no weight."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from captioncrafter.errors import counted
from captioncrafter.model import checkpoint
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.stock import Blip2
from captioncrafter.model.weights import StoredTensor
from captioncrafter.stages.ailments.documents import edit, read_object
from captioncrafter.stages.ailments.finding import Record
from captioncrafter.stages.ailments.head import HEAD, examine_head
from captioncrafter.stages.ailments.layer_names import part_of
from captioncrafter.stages.ailments.machine import tell_writer
from captioncrafter.stages.ailments.processor import TOKENIZER, examine_processor
from captioncrafter.stages.ailments.weight_files import examine_weight_files

CONFIG = "config.json"
_HALF = ("float16", "torch.float16")
_PUBLISHED_VISION_WIDTH = 1408


@dataclass(frozen=True)
class Base:
    """What of a base could be read: its `config`, its `processor` and the `model` on the meta device, or None."""

    found: Checkpoint
    config: Any = None
    processor: Any = None
    model: Blip2 | None = None


def examine_checkpoint(
    record: Record, found: Checkpoint, *, weights_here: bool = True, headers: dict[str, StoredTensor] | None = None
) -> Base:
    """Everything that a folder or a hub checkpoint shows by its small files and the headers of its weights.

    `headers` are those of a checkpoint whose weights are not on this disk; without `weights_here` nothing is said of
    weights at all, nor of a processor whose tokenizer is still to be fetched with them.
    """
    again = _how_to_fetch(found)
    written = read_object(record, found.folder / CONFIG, mend=again)
    if written is None:
        if not record.has("damaged-json"):
            record.error("no-config", found.folder, f"no {CONFIG}: not a Hugging Face checkpoint", again)
        return Base(found)
    kind = written.get("model_type")
    record.facts["model"] = kind
    if kind != "blip-2":
        record.error(
            "other-model",
            found.folder / CONFIG,
            f'model_type "{kind}": not a BLIP-2, and others cannot be tuned here',
            "Take a checkpoint like Salesforce/blip2-flan-t5-xl.",
        )
        return Base(found)
    _examine_words(record, found, written)
    read_object(record, found.folder / "generation_config.json", mend=again)
    config = model = None
    with record.attempt("config-unusable", found.folder / CONFIG, again):
        config = checkpoint.load_config(found)
        model = model_without_weights(config)
    stored = headers if headers is not None else {}
    if weights_here and headers is None:
        stored = examine_weight_files(record, found.folder, again)
    if config is None or model is None:
        return Base(found)
    _examine_config(record, found, config)
    to_be_fetched = not weights_here and headers is None and not (found.folder / TOKENIZER).is_file()
    processor = None if to_be_fetched else examine_processor(record, found, config, again)
    if stored:
        _describe(record, model, stored)
        _examine_tensors(record, found, model, stored, again)
        _examine_precision(record, found, config, stored)
        examine_head(record, config, stored, readable=headers is None, again=again)
    return Base(found, config, processor, model)


def model_without_weights(config: Any) -> Blip2:
    """The model on the meta device."""
    import torch
    from transformers import Blip2ForConditionalGeneration

    with torch.device("meta"):
        return Blip2ForConditionalGeneration(config)


def _how_to_fetch(found: Checkpoint) -> str:
    if found.on_hub:
        return f"Fetch it again: hf download {found.name} --force-download"
    return "Copy or fetch it again from where it came."


def _examine_words(record: Record, found: Checkpoint, written: dict[str, Any]) -> None:
    """What the configuration says in words, whether or not it can be used."""
    where = found.folder / CONFIG
    if version := written.get("transformers_version"):
        mend = "Where it does not load: pip install -U transformers"
        tell_writer(record, where, version, "transformers", mend)
    classes = written.get("architectures") or ["Blip2ForConditionalGeneration"]
    if "Blip2ForConditionalGeneration" not in classes:
        record.warning(
            "other-class",
            where,
            f"saved as {', '.join(map(str, classes))}, which has other parts than a captioning model",
            "Take the Blip2ForConditionalGeneration of the same family.",
        )
    scripts = sorted(path.name for path in found.folder.glob("*.py"))
    if "auto_map" in written or scripts:
        record.note("code", where, "it brings code of its own, which is never run here", details=tuple(scripts))
    if "quantization_config" in written:
        record.error(
            "quantised",
            where,
            "its weights are stored quantised: precision, merging and exactness are no longer yours to choose",
            "Take the unquantised checkpoint; model.precision int8 or nf4 quantises it while loading.",
        )


def _examine_config(record: Record, found: Checkpoint, config: Any) -> None:
    where, text = found.folder / CONFIG, config.text_config
    record.facts["language model"] = text.model_type
    record.facts["image positions"] = config.num_query_tokens
    if config.image_token_index is None:
        record.note(
            "old-layout",
            where,
            "an old copy without image_token_index (transformers#34223): filled in each time it is loaded",
            "--fix writes it down, so that stock transformers sees the image too.",
            repair=None if found.on_hub else _image_token_repair(found),
        )
    if not is_decoder_only(config) and text.num_decoder_layers > text.num_layers:
        record.error(
            "cannot-generate",
            where,
            f"its T5 has {text.num_decoder_layers} decoder and {text.num_layers} encoder layers: "
            "transformers sizes the cache by the encoder's and fails while generating",
            "Take a checkpoint with as many of both.",
        )
    if (eps := getattr(config.vision_config, "layer_norm_eps", 1e-6)) != 1e-6:
        record.note(
            "layer-norm",
            where,
            f"the vision transformer's layer_norm_eps is {eps}; the published models were trained with 1e-06",
            "Check it against the checkpoint's source (transformers#24854).",
        )
    _examine_activation(record, where, config)


def _examine_activation(record: Record, where: object, config: Any) -> None:
    """The published flan-T5 ones say `gelu` where flan-T5 itself says `gelu_new`: a hand may have "corrected" it."""
    if is_decoder_only(config) or config.vision_config.hidden_size != _PUBLISHED_VISION_WIDTH:
        return
    if (activation := config.text_config.dense_act_fn) != "gelu":
        record.note(
            "activation",
            where,
            f"the language model's dense_act_fn is {activation}; the published flan-T5 models say gelu",
            "Check it against the checkpoint's source: what config.json says is what is computed.",
        )


def _image_token_repair(found: Checkpoint) -> Any:
    try:
        number = checkpoint.image_token_id(checkpoint.load_processor(found))
    except checkpoint.CheckpointError:
        return None
    return edit(found.folder / CONFIG, image_token_index=number)


def _describe(record: Record, model: Blip2, stored: dict[str, StoredTensor]) -> None:
    parameters: Counter[str] = Counter()
    for name in {HEAD, *(name for name, _ in model.named_parameters())} & stored.keys():
        parameters[part_of(name)] += math.prod(stored[name].shape)
    record.facts["parameters"] = dict(sorted(parameters.items()))
    dtypes = Counter(tensor.dtype for tensor in stored.values())
    record.facts["stored in"] = ", ".join(
        f"{dtype} ({counted(count, 'tensor')})" for dtype, count in dtypes.most_common()
    )
    record.facts["bytes"] = sum(tensor.end - tensor.start for tensor in stored.values())


def _examine_tensors(
    record: Record, found: Checkpoint, model: Blip2, stored: dict[str, StoredTensor], again: str
) -> None:
    """Holds names and shapes against the model that the configuration describes."""
    names: dict[int, list[str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        shapes[name] = tuple(parameter.shape)
    # Of weights that the model shares, one stored name is enough; a head of its own is `head`'s.
    missing = [shared[0] for shared in names.values() if not any(name in stored for name in shared)]
    if missing and not record.has("missing-shard", "damaged-shard", "lfs-pointer"):
        record.error(
            "missing-weights",
            found.folder,
            f"{counted(len(missing), 'weight of the model is', 'weights of the model are')} in no file, {missing[0]} "
            "first: a part of a model",
            again,
            details=tuple(missing),
        )
    wrong = [
        f"{name} {stored[name].shape} for {shape}"
        for name, shape in shapes.items()
        if name in stored and stored[name].shape != shape
    ]
    if wrong:
        record.error(
            "shape",
            found.folder,
            f"{counted(len(wrong), 'weight has', 'weights have')} another shape than {CONFIG} says, first {wrong[0]}",
            "Take weights and configuration from one source.",
            details=tuple(wrong),
        )
    known = {*shapes, *(name for name, _ in model.named_buffers())}
    unused = [name for name in stored if name not in known]
    if unused:
        record.note(
            "unused-weights",
            found.folder,
            f"{counted(len(unused), 'stored tensor belongs', 'stored tensors belong')} to no layer, {unused[0]} first; "
            "not read",
            details=tuple(unused),
        )


def _examine_precision(record: Record, found: Checkpoint, config: Any, stored: dict[str, StoredTensor]) -> None:
    half = [name for name, tensor in stored.items() if name.startswith("language_model.") and tensor.dtype == "F16"]
    told = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if is_decoder_only(config) or not (half or str(told) in _HALF):
        return
    record.warning(
        "fp16",
        found.folder,
        "T5 stored in float16: stock from_pretrained computes in what is stored, and T5 overflows in float16 "
        "(transformers#9295). Here it is loaded in bfloat16 or float32",
        "Elsewhere: load it with dtype=torch.bfloat16. Better: take the float32 original.",
        details=tuple(half[:20]),
    )
