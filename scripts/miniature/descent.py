"""Gradient descent that can be stopped: a stage of training goes on from its last checkpoint."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from captioncrafter.data.ahead import computed_ahead

KEEP_EVERY = 200

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Stage(Generic[Batch]):
    """What is trained, at which peak rates, on what, for how many steps; `batch` gives the data of a step.

    How it does is looked at every `look_every` steps, and at the end.
    """

    name: str
    steps: int
    learner: torch.nn.Module
    groups: list[dict[str, Any]]
    batch: Callable[[int], Batch]
    loss: Callable[[Batch], torch.Tensor]
    look_every: int


def descend(stage: Stage[Batch], seed: int, checkpoint: Path, look: Callable[[], None] = lambda: None) -> None:
    """Runs the stage to its end, from `checkpoint` on where that is of the same stage and seed; `look` tells how it is.

    Raises `SystemExit` when the checkpoint is of another training.
    """
    optimizer = torch.optim.AdamW(stage.groups, betas=(0.9, 0.98), weight_decay=0.05)
    identity = {"stage": stage.name, "steps": stage.steps, "peaks": [group["peak"] for group in stage.groups]}
    identity["seed"] = seed
    first = _restore(stage.learner, optimizer, identity, checkpoint)
    started, since = time.monotonic(), []
    for step, data in enumerate(computed_ahead(stage.batch, range(first, stage.steps), ahead=1), start=first):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _rate(step, stage.steps)
        loss = stage.loss(data)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.learner.parameters(), 1.0)
        optimizer.step()
        since.append(loss.item())
        if (step + 1) % 50 == 0:
            minutes, mean = (time.monotonic() - started) / 60, sum(since) / len(since)
            print(f"{stage.name} {step + 1}/{stage.steps}  loss {mean:.3f}  {minutes:.1f} min", flush=True)
            since.clear()
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == stage.steps:
            _keep(stage.learner, optimizer, identity, step + 1, checkpoint)
        if (step + 1) % stage.look_every == 0 or step + 1 == stage.steps:
            look()


def _rate(step: int, steps: int) -> float:
    """Linear warm-up over 60 steps, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / 60) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _restore(
    learner: torch.nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any], checkpoint: Path
) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    if state["identity"] != identity:
        raise SystemExit(f"{checkpoint} is of {state['identity']}: remove it, or give the same options.")
    learner.load_state_dict(state["learner"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _keep(
    learner: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    step: int,
    checkpoint: Path,
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": identity,
        "step": step,
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").replace(checkpoint)
