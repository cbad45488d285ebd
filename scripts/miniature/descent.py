"""Gradient descent that can be stopped: a stage of training goes on from its last checkpoint."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from captioncrafter.data.ahead import computed_ahead

from .dice import seed_of

KEEP_EVERY = 500
SAY_EVERY = 50
WEIGHT_DECAY = 0.05
WARM_UP = 60
"""Steps in which the rate rises to its peak."""

FLIGHTS = 200
"""In how many steps the rate then falls: with every new rate a GPU has to record anew."""

Batch = TypeVar("Batch")

Group = dict[str, Any]
"""Weights as `params`, and their peak rate as `peak`."""


@dataclass(frozen=True)
class Schedule:
    """How long a stage trains, at which peak rate, with which dice, and where it keeps what it has learned so far."""

    steps: int
    rate: float
    seed: int
    checkpoint: Path


@dataclass(frozen=True)
class Stage(Generic[Batch]):
    """What is trained, at which peak rates, and on what; `batch` gives the data of a step.

    `groups` learn by AdamW, `matrices` by Muon. How it does is looked at every `look_every` steps, and at the end.
    """

    name: str
    learner: torch.nn.Module
    groups: Sequence[Group]
    batch: Callable[[int], Batch]
    loss: Callable[[Batch], torch.Tensor]
    look_every: int
    matrices: Sequence[Group] = ()
    alike: bool = False
    """Whether the data of every step are a named tuple of tensors of the same shapes, and no step waits for a GPU."""


def descend(stage: Stage[Batch], schedule: Schedule, look: Callable[[], None] = lambda: None) -> None:
    """Runs the stage to its end, from its checkpoint on where that is of the same training; `look` tells how it is.

    Raises `SystemExit` when the checkpoint is of another training.
    """
    optimizers = _optimizers(stage)
    peaks = [group["peak"] for group in (*stage.groups, *stage.matrices)]
    identity = {"stage": stage.name, "steps": schedule.steps, "peaks": peaks, "seed": schedule.seed}
    first = _restore(stage.learner, optimizers, identity, schedule.checkpoint)
    take = _Steps(stage, optimizers)
    started = time.monotonic()
    since: list[torch.Tensor] = []
    with take.stream():
        for step, data in enumerate(computed_ahead(stage.batch, range(first, schedule.steps), ahead=1), start=first):
            torch.manual_seed(seed_of(schedule.seed, step))  # of dropout
            since.append(take(data, _rate(step, schedule.steps)))  # read seldom: a GPU would wait for each
            last = step + 1 == schedule.steps
            if (step + 1) % SAY_EVERY == 0:
                minutes, mean = (time.monotonic() - started) / 60, float(torch.stack(since).mean())
                print(f"{stage.name} {step + 1}/{schedule.steps}  loss {mean:.3f}  {minutes:.2f} min", flush=True)
                since.clear()
            if (step + 1) % KEEP_EVERY == 0 or last:
                _keep(stage.learner, optimizers, identity, step + 1, schedule.checkpoint)
            if (step + 1) % stage.look_every == 0 or last:
                look()


class _Steps:
    """Steps of gradient descent. On a GPU those that are all alike are recorded once, and then replayed.

    A miniature's step is over a thousand kernels, of which each takes less time than its launch.
    """

    def __init__(self, stage: Stage[Any], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._stage, self._optimizers = stage, optimizers
        self._device = next(stage.learner.parameters()).device
        self._recorded: _Recording | None = None
        self._recorded_at = 0.0
        self._taken = 0
        self._replays = stage.alike and self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if self._replays else None

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Where all of it runs: a recording must not be made where other work is."""
        if self._stream is None:
            yield
        else:
            torch.cuda.synchronize(self._device)
            with torch.cuda.stream(self._stream):
                yield
            torch.cuda.synchronize(self._device)

    def __call__(self, data: Any, rate: float) -> torch.Tensor:
        """One step at the share `rate` of the peak rates; its loss."""
        if self._recorded is not None and rate == self._recorded_at:
            return self._recorded.replay(data)
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak"] * rate
        self._taken += 1
        if not self._replays or self._taken <= WARM_UP:
            return self._once(data if not self._stage.alike else moved(data, self._device))
        self._recorded = None
        self._stage.learner.zero_grad()
        self._recorded, self._recorded_at = _Recording(self._once, moved(data, self._device), self._stream), rate
        return self._recorded.replay(data)

    def _once(self, data: Any) -> torch.Tensor:
        self._stage.learner.zero_grad()
        loss = self._stage.loss(data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._stage.learner.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        return loss.detach()


class _Recording:
    """What a step does on a GPU, to be done again with other data: learning rates are part of it."""

    def __init__(
        self, step: Callable[[Any], torch.Tensor], data: tuple[torch.Tensor, ...], stream: torch.cuda.Stream | None
    ) -> None:
        self._data = data
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._loss = step(data)

    def replay(self, data: Iterable[torch.Tensor]) -> torch.Tensor:
        """The step with `data`; its loss."""
        for known, new in zip(self._data, data, strict=True):
            known.copy_(new)
        self._graph.replay()
        return self._loss.clone()


def moved(data: Any, device: torch.device) -> Any:
    """A named tuple of tensors, on `device`."""
    return type(data)(*(one.to(device) for one in data))


def _optimizers(stage: Stage[Any]) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon (Jordan et al., 2024) with steps as long as AdamW's (Liu et al., 2025), which sees sooner.

    docs/log.md has the figures, under "seeing by Muon".
    """
    on_gpu = next(stage.learner.parameters()).is_cuda
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(list(stage.groups), betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, capturable=on_gpu)
    ]
    if stage.matrices:
        optimizers.append(
            torch.optim.Muon(list(stage.matrices), weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to nothing, in short flights."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    flight = max(1, steps // FLIGHTS)
    return 0.5 * (1 + math.cos(math.pi * (step - step % flight) / steps))


def _restore(
    learner: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], identity: dict[str, Any], checkpoint: Path
) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["identity"] != identity or "optimizers" not in state:
        raise SystemExit(
            f"{checkpoint} is of {state['identity']}: remove it and those of later stages, or give the same options."
        )
    learner.load_state_dict(state["learner"])
    for optimizer, known in zip(optimizers, state["optimizers"], strict=True):
        for kept, group in zip(known["param_groups"], optimizer.param_groups, strict=True):
            if "capturable" in group:
                kept["capturable"] = group["capturable"]  # as this device needs it, not that of the checkpoint
        optimizer.load_state_dict(known)
    return state["step"]


def _keep(
    learner: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    identity: dict[str, Any],
    step: int,
    checkpoint: Path,
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": identity,
        "step": step,
        "learner": learner.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").replace(checkpoint)
