"""Everything needed to go on as if nothing had happened, in safetensors and JSON.

A checkpoint is a folder `step-NNNNNN`: weights, optimizer state, random state and `state.json`, which holds the hash
of the others. It is written beside, synced and renamed, so that a kill leaves a whole one or none.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from captioncrafter import events, runs
from captioncrafter.errors import DataError

_STATE = "state.json"
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_RANDOM = "random.safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run has come: `step` steps done, the best validation so far, validations since then."""

    step: int = 0
    best_cider: float | None = None
    best_step: int | None = None
    validations_without_gain: int = 0
    finished: bool = False


def save(
    folder: Path,
    progress: Progress,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    *,
    keep: int,
) -> Path:
    """Writes the checkpoint of `progress.step` under `folder`, then removes all but the newest `keep`.

    Those of later steps go too: a run is only ever behind one that it passed over as damaged.
    """
    path = folder / f"step-{progress.step:06d}"
    with runs.replacing_folder(path) as temporary:
        save_file({name: p.detach().cpu() for name, p in parameters.items()}, temporary / _WEIGHTS)
        save_file(_optimizer_tensors(parameters, optimizer), temporary / _OPTIMIZER)
        save_file(_random_tensors(device), temporary / _RANDOM)
        hashes = {file.name: _hash(file) for file in sorted(temporary.iterdir())}
        facts = {"progress": asdict(progress), "hashes": hashes}
        runs.write_json(temporary / _STATE, facts | {"check": _check(facts)})
    steps = _newest_first(folder)
    at = steps.index(path)
    for old in steps[:at] + steps[at + keep :]:
        shutil.rmtree(old)
    return path


def newest_good(folder: Path) -> Path | None:
    """The newest checkpoint under `folder` whose files are all there and unchanged; None when there is none.

    Each one passed over is named, with the reason.
    """
    passed_over = 0
    for path in _newest_first(folder):
        fault = _fault(path)
        if fault is None:
            return path
        events.warn(f"{path}: {fault}; passed over.")
        passed_over += 1
    if passed_over:
        events.warn(f"{folder}: none of its {passed_over} checkpoints is whole; training starts again at step 0.")
    return None


def restore(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, device: torch.device
) -> Progress:
    """Puts the checkpoint's weights, optimizer state and random state in place; gives its progress.

    Raises `DataError` when it is of an adapter with other weights.
    """
    stored = load_file(path / _WEIGHTS)
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    if shapes != {name: tuple(t.shape) for name, t in stored.items()}:
        raise DataError(f"{path}: made with another adapter than this recipe's. Give a new --out to start afresh.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])
    _restore_optimizer(load_file(path / _OPTIMIZER), parameters, optimizer)
    random = load_file(path / _RANDOM)
    torch.set_rng_state(random["cpu"])
    if "device" in random and device.type == "cuda":
        torch.cuda.set_rng_state(random["device"], device)
    return Progress(**_state(path)["progress"])


def _newest_first(folder: Path) -> list[Path]:
    # By number: the millionth step has one digit more than the name is padded to.
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _fault(path: Path) -> str | None:
    try:
        state = _state(path)
        if state.pop("check") != _check(state):
            return f"{_STATE} is not as it was written"
        for name, expected in state["hashes"].items():
            if _hash(path / name) != expected:
                return f"{name} is not as it was written"
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        return f"not whole ({error})"
    return None


def _state(path: Path) -> dict[str, Any]:
    return json.loads((path / _STATE).read_text(encoding="utf-8"))


def _check(facts: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())


def _hash(file: Path) -> str:
    return xxhash.xxh3_128_hexdigest(file.read_bytes())


def _optimizer_tensors(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.detach().cpu()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(
    stored: dict[str, Tensor], parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    for name, parameter in parameters.items():
        prefix = f"{name}/"
        values = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
        # AdamW keeps its step count on the CPU and its moments beside the weights.
        optimizer.state[parameter] = {
            key: value if key == "step" else value.to(parameter.device) for key, value in values.items()
        }


def _random_tensors(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    return states
