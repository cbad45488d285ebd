"""The whole model as an export: the base's unquantised weights with the adapter merged in, read back when written."""

from pathlib import Path
from typing import Literal

import torch

from captioncrafter import events, storage
from captioncrafter.errors import CheckpointError, InputError
from captioncrafter.generation.captioner import check_base
from captioncrafter.generation.decode import generate_options
from captioncrafter.generation.origin import CAPTIONING, Origin
from captioncrafter.model import checkpoint, lora, weights
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.loading import load_model
from captioncrafter.model.merging import Merge
from captioncrafter.report.card_metadata import public_name
from captioncrafter.report.export_card import README, merged_card
from captioncrafter.stages.ailments.checkpoint import examine_checkpoint
from captioncrafter.stages.ailments.finding import Record, Severity
from captioncrafter.stages.disk import refuse_full_disk
from captioncrafter.stages.export_folder import BESIDE_WEIGHTS_BYTES, written_to

Dtype = Literal["bf16", "fp32"]

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_QUANTISED = ("int8", "nf4")
_HEAD = "language_model.lm_head"


def export_merged(adapter: Path, origin: Origin, to: Path, dtype: Dtype) -> None:
    """Writes the merged model into `to`. Raises `CheckpointError` when the two do not fit, or it does not read back."""
    base = checkpoint.find(origin.base, origin.revision)
    if to.resolve() == base.folder.resolve():
        raise InputError(f"{to}: is the base itself. Choose another --to.")
    check_base(base, origin)
    merge = Merge.of(base, adapter)
    if origin.precision in _QUANTISED:
        events.say(
            f"{adapter}: tuned over {origin.precision} weights, merged into the unquantised ones: captions can differ "
            "a little from those over the quantised base"
        )
    if merge.left_out:
        events.say(f"{base.name}: {len(merge.left_out)} stored tensors belong to no layer and are left out")
    kept = _DTYPES[dtype]
    refuse_full_disk(to, merge.size(kept) + BESIDE_WEIGHTS_BYTES, what="the export", option="a --to")
    with written_to(to, "merged", base, dtype=_name(kept)) as export:
        with events.progress(f"{base.name}, tensors merged and written", len(merge.sources)) as progress:
            generation = generate_options(origin.decoding)
            export.hashes |= merge.write(export.folder, kept, generation=generation, written=progress.advance)
        _write_settings(export.folder, adapter, origin, base)
        _write_card(export.folder, adapter, origin, base, _name(kept))
        _check(export.folder, merge, kept, export.hashes, to)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_settings(folder: Path, adapter: Path, origin: Origin, base: Checkpoint) -> None:
    """What captioning with the model takes to be as tuned, and what it was made of; no path of this machine."""
    storage.write_json(
        folder / CAPTIONING,
        {
            "prompt": origin.prompt,
            "precision": "auto" if origin.precision in _QUANTISED else origin.precision,
            "decoding": origin.decoding.model_dump(),
            "merged_from": {
                "base": public_name(base),
                "revision": base.revision,
                "weights": base.describe()["weights"],
                "adapter_weights": storage.sha256_of(adapter / lora.ADAPTER_WEIGHTS),
            },
        },
    )


def _write_card(folder: Path, adapter: Path, origin: Origin, base: Checkpoint, dtype: str) -> None:
    card = (adapter / README).read_text(encoding="utf-8") if (adapter / README).is_file() else None
    text = merged_card(card, base, prompt=origin.prompt, decoding=origin.decoding, dtype=dtype)
    storage.write_text(folder / README, text)


def _check(folder: Path, merge: Merge, dtype: torch.dtype, hashes: dict[str, str], to: Path) -> None:
    """Reads what was written: its bytes, names and shapes, then as the doctor would, then the head as stock does."""
    for name, sha256 in hashes.items():
        if storage.sha256_of(folder / name) != sha256:
            raise CheckpointError(f"{to / name}: what the disk holds is not what was written. Is the disk sound?")
    wanted = {name: shape.sizes for name, shape in merge.shapes(dtype).items()}
    if {name: tensor.shape for name, tensor in weights.stored_tensors(folder).items()} != wanted:
        raise CheckpointError(f"{to}: its files do not hold the tensors that were written. Is the disk sound?")
    written = Checkpoint(str(folder), None, folder)
    record = Record("checkpoint", str(folder))
    examine_checkpoint(record, written)
    for finding in record.findings:
        if finding.severity is Severity.ERROR or finding.ailment == "old-layout":
            raise CheckpointError(f"{to}: merged, it would not be sound: {finding.what}. {finding.mend}".strip())
    parts = (_HEAD,) if f"{_HEAD}.weight" in wanted else ("query_tokens",)
    load_model(written, arithmetic=Arithmetic(dtype), device=torch.device("cpu"), parts=parts)
