"""Gradient descent that can be stopped: a stage of training goes on from its last checkpoint."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from captioncrafter.data.ahead import computed_ahead

KEEP_EVERY = 200
WEIGHT_DECAY = 0.05

Batch = TypeVar("Batch")

Group = dict[str, Any]
"""Weights as `params`, and their peak rate as `peak`."""


@dataclass(frozen=True)
class Stage(Generic[Batch]):
    """What is trained, at which peak rates, on what, for how many steps; `batch` gives the data of a step.

    `groups` learn by AdamW, `matrices` by Muon. How it does is looked at every `look_every` steps, and at the end.
    """

    name: str
    steps: int
    learner: torch.nn.Module
    groups: Sequence[Group]
    batch: Callable[[int], Batch]
    loss: Callable[[Batch], torch.Tensor]
    look_every: int
    matrices: Sequence[Group] = ()


def descend(stage: Stage[Batch], seed: int, checkpoint: Path, look: Callable[[], None] = lambda: None) -> None:
    """Runs the stage to its end, from `checkpoint` on where that is of the same stage and seed; `look` tells how it is.

    Raises `SystemExit` when the checkpoint is of another training.
    """
    optimizers = _optimizers(stage)
    peaks = [group["peak"] for group in (*stage.groups, *stage.matrices)]
    identity = {"stage": stage.name, "steps": stage.steps, "peaks": peaks, "seed": seed}
    first = _restore(stage.learner, optimizers, identity, checkpoint)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    started, since = time.monotonic(), []
    for step, data in enumerate(computed_ahead(stage.batch, range(first, stage.steps), ahead=1), start=first):
        for group in groups:
            group["lr"] = group["peak"] * _rate(step, stage.steps)
        torch.manual_seed(seed + step)  # of dropout: after a stop, a step draws what it would have drawn
        loss = stage.loss(data)
        stage.learner.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.learner.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        since.append(loss.item())
        if (step + 1) % 50 == 0:
            minutes, mean = (time.monotonic() - started) / 60, sum(since) / len(since)
            print(f"{stage.name} {step + 1}/{stage.steps}  loss {mean:.3f}  {minutes:.1f} min", flush=True)
            since.clear()
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == stage.steps:
            _keep(stage.learner, optimizers, identity, step + 1, checkpoint)
        if (step + 1) % stage.look_every == 0 or step + 1 == stage.steps:
            look()


def _optimizers(stage: Stage[Any]) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon (Jordan et al., 2024) with steps as long as AdamW's (Liu et al., 2025), which sees sooner.

    docs/log.md has the figures, under "seeing by Muon".
    """
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(list(stage.groups), betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    ]
    if stage.matrices:
        optimizers.append(
            torch.optim.Muon(list(stage.matrices), weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def _rate(step: int, steps: int) -> float:
    """Linear warm-up over 60 steps, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / 60) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _restore(
    learner: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], identity: dict[str, Any], checkpoint: Path
) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    if state["identity"] != identity or "optimizers" not in state:
        raise SystemExit(
            f"{checkpoint} is of {state['identity']}: remove it and those of later stages, or give the same options."
        )
    learner.load_state_dict(state["learner"])
    for optimizer, known in zip(optimizers, state["optimizers"], strict=True):
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
