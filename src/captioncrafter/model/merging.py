"""Merges an adapter into its base's weights on the way from the base's files to new ones, a tensor at a time.

The base is never in memory: a layer's weight is read, merged by PEFT in float32, written and let go. What is written
is the checkpoint of a stock `Blip2ForConditionalGeneration`, in its current layout.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioncrafter import storage
from captioncrafter.errors import CheckpointError
from captioncrafter.model import weights
from captioncrafter.model.adapters import ADAPTER_CONFIG
from captioncrafter.model.checkpoint import Checkpoint, load_small_parts, quiet_transformers
from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.integrity import check_hashes
from captioncrafter.model.laid_over import laid_over
from captioncrafter.model.memory import meta_model
from captioncrafter.model.shards import SHARD_BYTES, Shape, dtype_of, read_tensor, write_shards
from captioncrafter.model.stock import Blip2, Processor, Tuned
from captioncrafter.model.weights import StoredTensor

CONFIG, GENERATION = "config.json", "generation_config.json"

_OF_THIS_MACHINE = ("is_local", "local_files_only")
"""What transformers notes in a tokenizer's configuration of where it was read from."""


@dataclass(frozen=True)
class Merge:
    """A base and an adapter that fit: `sources` are the base's tensors that the merged model has, by their names there.

    `changed` gives the merged weight of each layer that the adapter reaches; all other weights are the base's.
    """

    base: Checkpoint
    config: Any
    processor: Processor
    sources: Mapping[str, StoredTensor]
    changed: Mapping[str, Callable[[Tensor], Tensor]] = field(repr=False)
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, base: Checkpoint, adapter: Path) -> "Merge":
        """What merging the adapter in `adapter` into `base` comes to; only headers and the adapter are read.

        Files of the hub cache are held against the hub's hashes. Raises `CheckpointError` when the two do not fit, when
        weights are missing, and for an adapter that cannot be merged: one over a changed base, on a shared weight, or
        with biases.
        """
        stored = weights.stored_tensors(base.folder)
        check_hashes(sorted({tensor.file for tensor in stored.values()}), base.name)
        config, processor = load_small_parts(base)
        model = meta_model(config, torch.float32)
        names = _names(model)
        sources, left_out = _sources(base, model, names, stored)
        tuned = laid_over(model, adapter)
        changed = _changed(tuned, adapter)
        _refuse_shared(changed, names, adapter)
        return cls(base, config, processor, sources, changed, left_out)

    def shapes(self, dtype: torch.dtype) -> dict[str, Shape]:
        """What is written, in model order: floating-point weights in `dtype`, others as they are."""
        return {name: Shape(stored.shape, _written_as(stored, dtype)) for name, stored in self.sources.items()}

    def size(self, dtype: torch.dtype) -> int:
        """Bytes of all weights."""
        return sum(shape.bytes for shape in self.shapes(dtype).values())

    def write(
        self,
        folder: Path,
        dtype: torch.dtype,
        *,
        generation: Mapping[str, Any],
        shard_bytes: int = SHARD_BYTES,
        written: Callable[[], None] = lambda: None,
    ) -> dict[str, str]:
        """Writes weights, configuration and processor into `folder`; `generation` are options for `generate` to keep.

        `written` is called after each tensor. Gives the sha256 of each file of weights. Raises `CheckpointError` when a
        merged weight is not finite.
        """
        tensor_of = partial(self._tensor, dtype, written)
        hashes = write_shards(folder, self.shapes(dtype), tensor_of, shard_bytes=shard_bytes)
        _write_config(self.config, folder, dtype)
        _write_generation(self.base, self.config, folder, generation)
        self.processor.save_pretrained(folder)
        _without_keys(folder / "tokenizer_config.json", *_OF_THIS_MACHINE)
        return hashes

    def _tensor(self, dtype: torch.dtype, written: Callable[[], None], name: str) -> Tensor:
        source = self.sources[name]
        tensor = read_tensor(source)
        if name in self.changed:
            tensor = self.changed[name](tensor.float()).to(_written_as(source, dtype))
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"{name}: merged, it holds NaN or infinity: the adapter is spoilt. `captioncrafter doctor` tells "
                    "which of its weights are."
                )
        written()
        return tensor.to(_written_as(source, dtype))


def _names(model: Blip2) -> list[list[str]]:
    """All names of each parameter, in model order; more than one where it is shared."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _sources(
    base: Checkpoint, model: Blip2, names: list[list[str]], stored: Mapping[str, StoredTensor]
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The stored tensor of each of the model's, a shared one once; and the names of those that no layer has."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    sources: dict[str, StoredTensor] = {}
    for shared in names:
        name = next((name for name in shared if name in stored), None)
        if name is None:
            raise CheckpointError(
                f"{base.name}: {shared[0]} is in none of its files: a part of a model, or not of its config.json."
            )
        if stored[name].shape != shapes[name]:
            raise CheckpointError(
                f"{stored[name].file}: {name} is {stored[name].shape}, and config.json asks for {shapes[name]}. Take "
                "both from one source."
            )
        if dtype_of(stored[name]) is None:
            raise CheckpointError(
                f"{stored[name].file}: {name} is stored as {stored[name].dtype}: a quantised checkpoint holds no "
                "merged adapter. Merge into the unquantised one, with --base."
            )
        sources[name] = stored[name]
    kept = {name for name, _ in model.named_buffers()} & stored.keys()
    sources |= {name: stored[name] for name in sorted(kept)}
    known = {name for shared in names for name in shared} | kept
    return sources, tuple(name for name in stored if name not in known)


def _changed(tuned: Tuned, adapter: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """How each weight that the adapter changes is made of the base's, by its stock name."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    changed: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, module in tuned.get_base_model().named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            for inner, parameter in module.modules_to_save["default"].named_parameters():
                changed[f"{name}.{inner}"] = partial(_exchanged, parameter.detach())
        elif isinstance(module, LoraLayer):
            if any(module.lora_bias.values()):
                raise CheckpointError(
                    f"{adapter / ADAPTER_CONFIG}: lora_bias gives {name} a bias of its own: use the adapter unmerged."
                )
            changed[f"{name}.weight"] = partial(_merged, name, module)
    return changed


def _exchanged(trained: Tensor, weight: Tensor) -> Tensor:
    """The trained weight in place of the base's."""
    del weight
    return trained


def _merged(name: str, layer: Any, weight: Tensor) -> Tensor:
    """The base's weight with the adapter's change, as PEFT merges it: LoRA, rsLoRA, DoRA."""
    base = layer.get_base_layer()
    empty, base.weight = base.weight, nn.Parameter(weight, requires_grad=False)
    try:
        layer.merge()
        return base.weight.detach()
    except (ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{name}: PEFT does not merge this kind of adapter ({error}).") from error
    finally:
        base.weight = empty
        layer.merged_adapters.clear()
        layer._caches.clear()


def _refuse_shared(changed: Mapping[str, Any], names: list[list[str]], adapter: Path) -> None:
    for shared in names:
        tuned = [name for name in shared if name in changed]
        if tuned and len(shared) > 1:
            other = next(name for name in shared if name != tuned[0])
            raise CheckpointError(
                f"{adapter}: it tunes {tuned[0]}, which this model shares with {other}: use the adapter unmerged."
            )


def _written_as(stored: StoredTensor, dtype: torch.dtype) -> torch.dtype:
    own = dtype_of(stored)
    assert own is not None
    return dtype if own.is_floating_point else own


def _write_config(config: Any, folder: Path, dtype: torch.dtype) -> None:
    """The configuration, mended, with the dtype of what was written and the head's own say in the hub's words."""
    config.architectures = ["Blip2ForConditionalGeneration"]
    for part in (config, config.text_config, config.vision_config, config.qformer_config):
        part.dtype = dtype
    config.save_pretrained(folder)
    written = storage.read_json(folder / CONFIG)
    text = written["text_config"]
    if not is_decoder_only(config) and text.pop("scale_decoder_outputs", True) is False:
        # transformers 5 writes true beside a key of its own; versions before it would tie the head by that.
        text["tie_word_embeddings"] = False
    storage.write_json(folder / CONFIG, written)


def _write_generation(base: Checkpoint, config: Any, folder: Path, options: Mapping[str, Any]) -> None:
    """The base's generation config with the options that the adapter was tuned for."""
    from transformers import GenerationConfig

    try:
        with quiet_transformers():
            if (base.folder / GENERATION).is_file():
                kept = GenerationConfig.from_pretrained(base.folder)
            else:
                kept = GenerationConfig.from_model_config(config.text_config)
            kept.update(**options, _from_model_config=False)
            kept.save_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{base.folder / GENERATION}: not usable ({error}). Fetch it again.") from error


def _without_keys(file: Path, *keys: str) -> None:
    if file.is_file():
        values = storage.read_json(file)
        storage.write_json(file, {key: value for key, value in values.items() if key not in keys})
