"""What a run could go on from, and whether the adapter beside it is the best of its validations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioncrafter import runs, storage
from captioncrafter.errors import counted
from captioncrafter.model.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from captioncrafter.stages.ailments.documents import keep, may_change
from captioncrafter.stages.ailments.finding import BROKEN, Record
from captioncrafter.stages.ailments.weight_files import pickles_in
from captioncrafter.training import checkpoint

_PLAIN = (".lora_A.", ".lora_B.")


def examine_checkpoints(record: Record, folder: Path, manifest: dict[str, Any], *, at_work: bool) -> None:
    """Every checkpoint of the run in `folder`, and the adapter against the best of them."""
    place = folder / runs.CHECKPOINTS
    faults = checkpoint.faults(place) if place.is_dir() else {}
    good = [path for path, fault in faults.items() if fault is None and path.name.startswith("step-")]
    record.facts["checkpoints"] = ", ".join(path.name for path in good) or "none"
    best = checkpoint.best_of(good[0]) if good else None
    for path, fault in faults.items():
        if fault is None or at_work:
            continue
        repair = None
        if best is not None and good and _is_place_of_best(path, best):
            repair = _renewing(good[0])
        tell = record.warning if good else record.error
        tell(
            "torn-checkpoint",
            path,
            fault,
            "Going on passes it over; " + ("another is whole." if good else "training would start again at step 0."),
            repair=repair,
        )
    pickles = [name for path in faults for name in pickles_in(path)] if not at_work else []
    if pickles:
        record.note(
            "pickle",
            place,
            f"{counted(len(pickles), 'pickle file lies', 'pickle files lie')} among the checkpoints, never read",
            details=tuple(pickles),
        )
    if manifest.get("result") and not good:
        record.note("no-checkpoint", place, "no whole checkpoint: nothing can branch off this run")
    if best is not None and not at_work:
        _examine_agreement(record, folder, best, manifest)


def _is_place_of_best(path: Path, best: Path) -> bool:
    """Whether the weights of the best validation belong into `path`, where another place has them whole."""
    step = storage.read_json(best / "state.json")["progress"]["step"]
    return path != best and path.name in ("best", f"step-{step:06d}")


def _renewing(newest: Path) -> Callable[[], str]:
    def repair() -> str:
        source = checkpoint.renewed_best(newest)
        return f"the weights of the best validation were written again from {source}"

    return repair


def _examine_agreement(record: Record, folder: Path, best: Path, manifest: dict[str, Any]) -> None:
    """The adapter must hold the best validation's weights; where it does not, they can be put there."""
    file = folder / runs.ADAPTER / ADAPTER_WEIGHTS
    wanted = _as_adapter(load_file(best / "weights.safetensors"))
    if wanted is None or manifest.get("start"):
        return  # DoRA and starts that changed the base are written in another form
    try:
        there: dict[str, Tensor] | None = load_file(file)
    except (SafetensorError, *BROKEN):
        there = None
    if there is not None and _equal(there, wanted):
        return
    record.error(
        "not-the-best",
        file,
        "damaged or missing, while the weights of the best validation are whole"
        if there is None
        else "not the weights of the best validation: changed after training, or of another run",
        f"Take those of {best}; --fix does.",
        repair=_rebuilding(file, wanted),
    )


def _as_adapter(weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The weights by their names in an adapter's file; None where they are more than plain LoRA matrices."""
    if not all(any(kind in name for kind in _PLAIN) for name in weights):
        return None
    return {name.replace(".default.", "."): tensor for name, tensor in weights.items()}


def _equal(there: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return there.keys() == wanted.keys() and all(torch.equal(there[name], wanted[name]) for name in wanted)


def _rebuilding(file: Path, wanted: dict[str, Tensor]) -> Callable[[], str] | None:
    if not may_change(file) or not (file.parent / ADAPTER_CONFIG).is_file():
        return None

    def repair() -> str:
        kept = keep(file)
        with storage.replacing(file) as temporary:
            save_file(wanted, temporary, metadata={"format": "pt"})
        return f"{file.name} holds the weights of the best validation again{kept}"

    return repair
