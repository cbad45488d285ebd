"""A stage of the miniature's training that was stopped goes on as if it had not been."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from miniature import descent
from miniature.descent import Schedule, Stage, descend

STEPS = 6


class Stopped(Exception):
    """In place of a kill."""


def learner() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))


def stage(trained: torch.nn.Module, *, peak: float = 0.3, stop_at: int | None = None) -> Stage[Tensor]:
    def batch(step: int) -> Tensor:
        return torch.randn(5, 4, generator=torch.Generator().manual_seed(step))

    seen: list[Tensor] = []

    def loss(data: Tensor) -> Tensor:
        seen.append(data)
        if len(seen) == stop_at:
            raise Stopped
        return trained(data).square().mean()

    matrices = [weight for weight in trained.parameters() if weight.ndim == 2]
    rest = [weight for weight in trained.parameters() if weight.ndim == 1]
    groups, turned = [{"params": rest, "peak": 0.1}], [{"params": matrices, "peak": peak}]
    return Stage("trial", trained, groups, batch, loss, look_every=STEPS, matrices=turned)


def schedule(checkpoint: Path, *, steps: int = STEPS, seed: int = 0) -> Schedule:
    return Schedule(steps, 0.1, seed, checkpoint)


def weights(trained: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in trained.parameters()])


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "KEEP_EVERY", 2)


@pytest.fixture
def whole(tmp_path: Path) -> Tensor:
    trained = learner()
    descend(stage(trained), schedule(tmp_path / "whole.pt"))
    return weights(trained)


def test_a_stopped_stage_ends_with_the_same_bits(tmp_path: Path, whole: Tensor):
    with pytest.raises(Stopped):
        descend(stage(learner(), stop_at=4), schedule(tmp_path / "stopped.pt"))
    trained = learner()

    descend(stage(trained), schedule(tmp_path / "stopped.pt"))

    assert torch.equal(weights(trained), whole)


def test_a_stage_stopped_on_a_gpu_goes_on_without_one(tmp_path: Path, whole: Tensor):
    with pytest.raises(Stopped):
        descend(stage(learner(), stop_at=4), schedule(tmp_path / "stopped.pt"))
    state = torch.load(tmp_path / "stopped.pt")
    for group in state["optimizers"][0]["param_groups"]:
        group["capturable"] = True
    torch.save(state, tmp_path / "stopped.pt")
    trained = learner()

    descend(stage(trained), schedule(tmp_path / "stopped.pt"))

    assert torch.equal(weights(trained), whole)


def test_matrices_and_other_weights_all_learn(tmp_path: Path):
    trained = learner()
    before = [weight.detach().clone() for weight in trained.parameters()]

    descend(stage(trained), schedule(tmp_path / "whole.pt"))

    assert not any(torch.equal(weight, was) for weight, was in zip(trained.parameters(), before, strict=True))


def test_a_stage_that_has_ended_is_not_run_again(tmp_path: Path, whole: Tensor):
    trained = learner()

    descend(stage(trained, stop_at=1), schedule(tmp_path / "whole.pt"))

    assert torch.equal(weights(trained), whole)


@pytest.mark.parametrize(
    "other",
    [
        lambda path: descend(stage(learner()), schedule(path, steps=STEPS + 1)),
        lambda path: descend(stage(learner(), peak=0.2), schedule(path)),
        lambda path: descend(stage(learner()), schedule(path, seed=1)),
    ],
    ids=["steps", "peak", "seed"],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, whole: Tensor, other: Callable[[Path], None]):
    with pytest.raises(SystemExit, match="remove it and those of later stages"):
        other(tmp_path / "whole.pt")
