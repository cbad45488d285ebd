"""How many images at once fit a GPU, and that a run keeps the number with which it began."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from captioncrafter import recipe, runs
from captioncrafter.data.splits import load_splits
from captioncrafter.recipe import Recipe
from captioncrafter.stages import room
from captioncrafter.stages import train as train_stage
from captioncrafter.stages.base import Base
from captioncrafter.training.processes import Processes
from captioncrafter.training.step import Stepper, Update
from tiny import tiny_recipe, write_tiny_dataset

CPU = torch.device("cpu")


def asked(**training: object) -> Recipe:
    return Recipe.model_validate({"training": training})


def ten_an_image(trial: Recipe) -> int:
    assert trial.training.images_per_batch is not None
    return 10 * trial.training.images_per_batch


@pytest.mark.parametrize(
    ("limit", "images"),
    [(1000, 32), (356, 32), (355, 16), (178, 16), (80, 4), (45, 4), (44, 2), (20, 2), (19, None)],
)
def test_as_many_as_leave_a_tenth_free_and_the_fewest_if_they_fit_at_all(limit: int, images: int | None):
    assert room.most_at_once(asked(), ten_an_image, limit) == images


@pytest.mark.parametrize(("limit", "images"), [(23, 2), (22, 2), (19, 1), (9, None)])
def test_single_images_are_taken_only_where_two_do_not_fit_at_all(limit: int, images: int | None):
    assert room.most_at_once(asked(gradient_checkpointing=True), ten_an_image, limit) == images


@pytest.mark.parametrize(
    ("options", "fewest"),
    [
        (asked(), 2),
        (asked(gradient_checkpointing=True), 1),
        (Recipe.model_validate({"model": {"precision": "nf4"}}), 4),
        (asked(images_per_step=1), 1),
        (asked(images_per_step=9), 3),
    ],
)
def test_the_fewest_divide_the_step(options: Recipe, fewest: int):
    assert room.fewest_at_once(options) == fewest
    assert room.most_at_once(options, ten_an_image, 10 * fewest) == fewest


@pytest.mark.parametrize(("step", "world", "images"), [(32, 2, 16), (32, 3, 8), (30, 4, 6), (25, 6, 1), (4, 8, 1)])
def test_each_of_several_processes_has_its_part_of_the_step(step: int, world: int, images: int):
    options, most = asked(images_per_step=step), max(1, step // world)

    assert room.most_at_once(options, ten_an_image, 10**6, most=most) == images
    assert step % room.fewest_at_once(options, most=most) == 0


@pytest.mark.parametrize(
    ("free", "reserved", "limit"),
    [(140.45, 0.0, 141.0), (100.0, 0.0, 100.6), (100.0, 40.0, 140.6)],
    ids=["alone", "others hold some", "this process holds some"],
)
def test_what_other_processes_hold_of_a_gpu_is_left_out(
    monkeypatch: pytest.MonkeyPatch, free: float, reserved: float, limit: float
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * 1e9), int(141e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(reserved * 1e9))

    assert room.gpu_bytes(torch.device("cuda")) / 1e9 == pytest.approx(limit, abs=0.05)


@pytest.fixture
def case(tiny_checkpoint: Path, tmp_path: Path) -> Recipe:
    """Six images, all behind each update; how many at once is left open."""
    training = {"epochs": 3.0, "images_per_step": 6, "images_per_batch": None, "log_every_steps": 1}
    return tiny_recipe(tiny_checkpoint, write_tiny_dataset(tmp_path / "data"), training=training, lora={"dropout": 0.1})


def settle(options: Recipe, *, begun: dict[str, int] | None = None, device: str = "cuda") -> int | None:
    splits = load_splits(options.data)
    base = Base.of(options, CPU)
    there = Base(**{name: getattr(base, name) for name in Base.__dataclass_fields__} | {"device": torch.device(device)})
    found = room.settled(options, there, splits, begun or {}, Processes(CPU))
    return found.training.images_per_batch


def test_a_gpu_takes_what_the_plans_own_rehearsal_says_fits(
    case: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    limits = iter([10**11, 1])
    monkeypatch.setattr(room, "gpu_bytes", lambda device: next(limits))

    assert settle(case) == 6
    assert "6 images at once of 6 a step, by this GPU's memory" in capsys.readouterr().err
    assert settle(case) == 2


def test_a_number_that_is_stated_or_that_the_run_began_with_stays(case: Recipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "gpu_bytes", lambda device: pytest.fail("nobody asked"))

    assert settle(room.with_at_once(case, 3)) == 3
    assert settle(case, begun={"images_per_batch": 2}) == 2
    assert settle(case, device="cpu") == 6


def chosen(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """As a GPU would, one on which so many images fit."""

    def settled(options: recipe.Recipe, base: object, splits: object, begun: dict[str, int], *rest: object) -> Recipe:
        return room.with_at_once(options, begun.get(room.IMAGES_AT_ONCE, images))

    monkeypatch.setattr(train_stage.room, "settled", settled)


class Killed(BaseException):
    """Ends a run as a kill does."""


def killed_in_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    update = Stepper.update

    def fatal(self: Stepper, step: int, rate: float) -> Update:
        if step == number:
            raise Killed
        return update(self, step, rate)

    monkeypatch.setattr(Stepper, "update", fatal)


def weights_of(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_goes_on_to_the_same_bits_with_the_number_it_began_with(
    case: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train: Callable[..., object] = train_stage.train
    chosen(monkeypatch, 2)
    train(case, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_in_step(patched, 1)
        train(case, tmp_path / "stopped")

    chosen(monkeypatch, 6)
    train(case, tmp_path / "stopped", resume=True)
    train(case, tmp_path / "other")

    assert runs.Run.open(tmp_path / "stopped").manifest()["images_per_batch"] == 2
    assert runs.Run.open(tmp_path / "other").manifest()["images_per_batch"] == 6
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")
    assert weights_of(tmp_path / "other") != weights_of(tmp_path / "whole")
