"""Everything needed to go on as if nothing had happened, in safetensors and JSON.

A checkpoint is a folder `step-NNNNNN`: weights, optimizer state and `state.json`, which holds the hash of the others
and how far the run has come. There is no random state: the loop draws everything from seed and step. It is written
beside, synced and renamed, so that a kill leaves a whole one or none. Whatever else lies in the folder is never read.
"""

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, field
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
_NAME = re.compile(r"step-\d+")


@dataclass(frozen=True)
class Progress:
    """How far a run has come: `step` steps done, the best validation so far, validations since then.

    `window` holds the sums that the next row of the log needs, `halvings` how often the batch was halved for lack of
    memory, `skipped` the steps set aside because they were not finite.
    """

    step: int = 0
    best_cider: float | None = None
    best_step: int | None = None
    validations_without_gain: int = 0
    finished: bool = False
    window: dict[str, Any] = field(default_factory=dict)
    halvings: int = 0
    skipped: int = 0


def save(
    folder: Path,
    progress: Progress,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
) -> Path:
    """Writes the checkpoint of `progress.step` under `folder`, then removes all but the newest `keep` and the best.

    Those of later steps go too: a run is only ever behind one that it passed over as damaged. A write that fails
    raises `OSError` and leaves the older ones as they were.
    """
    path = folder / _name(progress.step)
    with runs.replacing_folder(path) as temporary:
        _write(temporary / _WEIGHTS, {name: p.detach().cpu() for name, p in parameters.items()})
        _write(temporary / _OPTIMIZER, _optimizer_tensors(parameters, optimizer))
        hashes = {name: _hash(temporary / name) for name in (_WEIGHTS, _OPTIMIZER)}
        facts = {"progress": asdict(progress), "hashes": hashes}
        runs.write_json(temporary / _STATE, facts | {"check": _check(facts)})
    steps = _newest_first(folder)
    at = steps.index(path)
    best = None if progress.best_step is None else _name(progress.best_step)
    for old in (*steps[:at], *steps[at + keep :]):
        if old.name != best:
            shutil.rmtree(old)
    return path


def newest_good(folder: Path, *, with_best: bool = False) -> Path | None:
    """The newest checkpoint under `folder` whose files are all there and unchanged; None when there is none.

    With `with_best`, that of the best validation before it has to be as whole. Each one passed over is named, with
    the reason.
    """
    passed_over = 0
    for path in _newest_first(folder):
        fault = _fault(path) or (_fault_of_its_best(path) if with_best else None)
        if fault is None:
            return path
        events.warn(f"{path}: {fault}; passed over.")
        passed_over += 1
    if passed_over:
        events.warn(f"{folder}: none of its {passed_over} checkpoints is whole; training starts again at step 0.")
    return None


def restore(path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> Progress:
    """Puts the checkpoint's weights and optimizer state in place; gives its progress.

    Raises `DataError` when it is of an adapter with other weights.
    """
    copy_weights(path, parameters)
    _restore_optimizer(load_file(path / _OPTIMIZER), parameters, optimizer)
    return Progress(**_state(path)["progress"])


def best_good(folder: Path) -> Path | None:
    """The whole checkpoint of the best validation so far, else the newest whole one; None when there is none."""
    newest = newest_good(folder)
    if newest is None:
        return None
    path = best_of(newest) or newest
    return path if _fault(path) is None else newest


def best_of(path: Path) -> Path | None:
    """Where the checkpoint of the best validation lies that the one at `path` knows of; None before the first."""
    best = Progress(**_state(path)["progress"]).best_step
    return path.with_name(_name(best)) if best is not None else None


def copy_weights(path: Path, parameters: dict[str, nn.Parameter]) -> None:
    """Puts the checkpoint's weights in place; raises `DataError` when it is of an adapter with other weights."""
    stored = load_file(path / _WEIGHTS)
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    if shapes != {name: tuple(t.shape) for name, t in stored.items()}:
        raise DataError(f"{path}: made with another adapter than this recipe's. Give a new --out to start afresh.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # What the system said, of a full disk for one, stands in the text alone (safetensors 0.8).
        raise OSError(f"{path.parent.parent}: the checkpoint was not written ({error})") from error


def _newest_first(folder: Path) -> list[Path]:
    # By number: the millionth step has one digit more than the name is padded to.
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _fault(path: Path) -> str | None:
    try:
        state = _state(path)
        if state.pop("check") != _check(state):
            return f"{_STATE} is not as it was written"
        if state["hashes"].keys() != {_WEIGHTS, _OPTIMIZER}:
            return f"another version made it, of {', '.join(sorted(state['hashes']))}"
        for name, expected in state["hashes"].items():
            if _hash(path / name) != expected:
                return f"{name} is not as it was written"
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        return f"not whole ({error})"
    return None


def _fault_of_its_best(path: Path) -> str | None:
    best = best_of(path)
    fault = _fault(best) if best is not None else None
    return f"{best} holds its best weights and is not whole ({fault})" if fault else None


def _state(path: Path) -> dict[str, Any]:
    return json.loads((path / _STATE).read_text(encoding="utf-8"))


def _check(facts: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()


def _optimizer_tensors(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.detach().cpu()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(
    stored: dict[str, Tensor], parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    # AdamW counts its steps beside the weights where one kernel does the whole update, else on the CPU.
    beside = {p for group in optimizer.param_groups if group["fused"] or group["capturable"] for p in group["params"]}
    for name, parameter in parameters.items():
        prefix = f"{name}/"
        values = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
        optimizer.state[parameter] = {
            key: value if key == "step" and parameter not in beside else value.to(parameter.device)
            for key, value in values.items()
        }
