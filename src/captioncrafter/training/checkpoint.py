"""Everything needed to go on as if nothing had happened, in safetensors and JSON.

A checkpoint is a folder `step-NNNNNN`: weights, optimizer state and `state.json`, which holds the hash of the others
and how far the run has come. There is no random state: the loop draws everything from seed and step. It is written
beside, synced and renamed, so that a kill leaves a whole one or none. The weights of the best validation lie a second
time in `best`: they are what a run is for, and without them it would have to go back behind that validation. Whatever
else lies in the folder is never read.
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

from captioncrafter import events, storage
from captioncrafter.errors import DataError, counted

_STATE = "state.json"
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_BEST = "best"
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

    Where it is itself the best, a copy of its weights takes the place of the former best one's.
    Those of later steps go too: a run is only ever behind one that it passed over as damaged. A write that fails
    raises `OSError` and leaves the older ones as they were.
    """
    path = folder / name_of(progress.step)
    with storage.replacing_folder(path) as temporary:
        _write(temporary / _WEIGHTS, {name: p.detach().cpu() for name, p in parameters.items()})
        _write(temporary / _OPTIMIZER, _optimizer_tensors(parameters, optimizer))
        hashes = {name: _hash(temporary / name) for name in (_WEIGHTS, _OPTIMIZER)}
        facts = {"progress": asdict(progress), "hashes": hashes}
        storage.write_json(temporary / _STATE, facts | {"check": _check(facts)})
    if progress.best_step == progress.step:
        _copy_weights_to(folder / _BEST, path)
    steps = _newest_first(folder)
    at = steps.index(path)
    best = None if progress.best_step is None else name_of(progress.best_step)
    for old in (*steps[:at], *steps[at + keep :]):
        if old.name != best:
            shutil.rmtree(old)
    return path


def newest_good(folder: Path, *, with_best: bool = False) -> Path | None:
    """The newest checkpoint under `folder` whose files are all there and unchanged; None when there is none.

    With `with_best`, the weights of the best validation before it have to be whole too, in their checkpoint or in the
    copy. Each one passed over is named, with the reason.
    """
    passed_over = 0
    for path in _newest_first(folder):
        fault = _fault(path) or (_loss_of_its_best(path) if with_best else None)
        if fault is None:
            return path
        events.warn(f"{path}: {fault}; passed over.")
        passed_over += 1
    if passed_over:
        events.warn(
            f"{folder}: none of its {counted(passed_over, 'checkpoint')} is whole; training starts again at step 0."
        )
    return None


def faults(folder: Path) -> dict[Path, str | None]:
    """What is wrong with each checkpoint under `folder`, newest first, and with the copy of the best; None: nothing."""
    found = {path: _fault(path) for path in _newest_first(folder)}
    copy = folder / _BEST
    return found | ({copy: _fault(copy, (_WEIGHTS,))} if copy.is_dir() else {})


def restore(path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> Progress:
    """Puts the checkpoint's weights and optimizer state in place; gives its progress.

    Raises `DataError` when it is of an adapter with other weights.
    """
    copy_weights(path, parameters)
    _restore_optimizer(load_file(path / _OPTIMIZER), parameters, optimizer)
    return Progress(**_state(path)["progress"])


def best_good(folder: Path) -> Path | None:
    """Where the weights of the best validation so far lie whole, else the newest whole checkpoint; None without any."""
    newest = newest_good(folder)
    return None if newest is None else best_of(newest) or newest


def best_of(path: Path) -> Path | None:
    """Where the weights of the best validation lie whole that the checkpoint at `path` knows of.

    That is their own checkpoint or its copy; None before the first validation, and where neither is whole.
    """
    step = _best_step(path)
    if step is None:
        return None
    return next((place for place in _places_of_best(path, step) if _holds_weights_of(place, step)), None)


def renewed_best(path: Path) -> Path | None:
    """The same, after what was damaged of checkpoint or copy was written again from the other one, and said."""
    step, source = _best_step(path), best_of(path)
    if step is None or source is None:
        return None
    own, copy = _places_of_best(path, step)
    if fault := _fault(own):
        events.warn(f"{own}: {fault}; the weights of this best validation are whole in {source}.")
    for place in (own, copy):
        if not _holds_weights_of(place, step):
            _copy_weights_to(place, source)
    return source


def _places_of_best(path: Path, step: int) -> tuple[Path, Path]:
    return path.with_name(name_of(step)), path.with_name(_BEST)


def _holds_weights_of(place: Path, step: int) -> bool:
    return _fault(place, (_WEIGHTS,)) is None and _state(place)["progress"]["step"] == step


def _copy_weights_to(place: Path, source: Path) -> None:
    """Puts the weights and the state of the checkpoint `source` into `place`; what else is there stays."""
    with storage.replacing_folder(place) as temporary:
        if place.is_dir():
            shutil.copytree(place, temporary, dirs_exist_ok=True)
        for name in (_WEIGHTS, _STATE):
            shutil.copyfile(source / name, temporary / name)


def copy_weights(path: Path, parameters: dict[str, nn.Parameter]) -> None:
    """Puts the checkpoint's weights in place; raises `DataError` when it is of an adapter with other weights."""
    stored = load_file(path / _WEIGHTS)
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    if shapes != {name: tuple(t.shape) for name, t in stored.items()}:
        raise DataError(f"{path}: made with another adapter than this recipe's. Give a new --out to start afresh.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])


def name_of(step: int) -> str:
    """The name of the checkpoint after `step` steps."""
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


def _fault(path: Path, needed: tuple[str, ...] = (_WEIGHTS, _OPTIMIZER)) -> str | None:
    """What is wrong with the checkpoint at `path`, as far as its state and the files `needed` go."""
    try:
        state = _state(path)
        if state.pop("check") != _check(state):
            return f"{_STATE} is not as it was written"
        if state["hashes"].keys() != {_WEIGHTS, _OPTIMIZER}:
            return f"another version made it, of {', '.join(sorted(state['hashes']))}"
        for name in needed:
            if _hash(path / name) != state["hashes"][name]:
                return f"{name} is not as it was written"
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        return f"not whole ({error})"
    return None


def _loss_of_its_best(path: Path) -> str | None:
    step = _best_step(path)
    if step is None or best_of(path) is not None:
        return None
    return f"{path.with_name(name_of(step))} holds its best weights and is not whole, nor is the copy in {_BEST}"


def _best_step(path: Path) -> int | None:
    return Progress(**_state(path)["progress"]).best_step


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
