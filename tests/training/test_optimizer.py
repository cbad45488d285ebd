"""The learning rate follows from the step alone; clipping and setting a step aside wait for no device."""

import copy

import pytest
import torch
from torch import nn

from captioncrafter import recipe
from captioncrafter.training.optimizer import adamw, clipped, learning_rate, update_if

TRAINING = recipe.Training(learning_rate=1.0, warmup=0.1)


def test_the_rate_rises_in_equal_steps_over_the_warm_up():
    rates = [learning_rate(step, 40, TRAINING) for step in range(5)]

    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_rate_is_half_in_the_middle_of_the_way_down():
    assert learning_rate(22, 40, TRAINING) == pytest.approx(0.5)


def test_the_rate_only_falls_after_the_warm_up_and_stays_above_zero():
    rates = [learning_rate(step, 40, TRAINING) for step in range(4, 40)]

    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert learning_rate(0, 10, recipe.Training(learning_rate=3e-4, warmup=0)) == pytest.approx(3e-4)


def test_a_run_of_one_step_has_a_rate():
    assert learning_rate(0, 1, TRAINING) > 0


def test_adamw_has_the_recipes_settings():
    training = recipe.Training(learning_rate=3e-4, weight_decay=0.2, beta1=0.8, beta2=0.9)

    (group,) = adamw([torch.nn.Parameter(torch.zeros(1))], training).param_groups

    assert (group["lr"], group["weight_decay"], group["betas"]) == (3e-4, 0.2, (0.8, 0.9))


def with_gradients(scale: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(1))]
    for number, parameter in enumerate(parameters[:2]):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * scale
    return parameters


@pytest.mark.parametrize("scale", [100.0, 1.0, 1e-3, 0.0])
def test_gradients_are_clipped_as_torch_clips_them(scale: float):
    ours, torchs = with_gradients(scale), with_gradients(scale)

    norm = clipped(ours, 1.0)

    assert torch.equal(norm, nn.utils.clip_grad_norm_(torchs, 1.0))
    for one, other in zip(ours[:2], torchs[:2], strict=True):
        assert torch.equal(one.grad, other.grad)
    assert ours[2].grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_norm_of_gradients_that_are_not_finite_is_not_finite(bad: float):
    parameters = with_gradients(1.0)
    parameters[1].grad[2] = bad

    assert not clipped(parameters, 1.0).isfinite()


def after_one_step() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.ones(4))
    optimizer = adamw([parameter], recipe.Training(learning_rate=0.1))
    parameter.grad = torch.arange(4.0)
    update_if(optimizer, torch.tensor(True))
    return parameter, optimizer


def test_a_finite_step_is_adamw_s():
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.arange(4.0)
    adamw([parameter], recipe.Training(learning_rate=0.1)).step()

    assert torch.equal(after_one_step()[0], parameter)


def test_a_step_that_is_not_finite_leaves_weights_moments_and_count():
    parameter, optimizer = after_one_step()
    weights, state = parameter.detach().clone(), copy.deepcopy(optimizer.state[parameter])

    parameter.grad = torch.full((4,), float("nan"))
    update_if(optimizer, torch.tensor(False))

    assert torch.equal(parameter, weights)
    assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(optimizer.state[parameter][key], value) for key, value in state.items())


def test_a_first_step_that_is_not_finite_leaves_the_weights():
    parameter = nn.Parameter(torch.ones(4))
    optimizer = adamw([parameter], recipe.Training(learning_rate=0.1))
    parameter.grad = torch.full((4,), float("inf"))

    update_if(optimizer, torch.tensor(False))

    assert torch.equal(parameter, torch.ones(4))
    assert float(optimizer.state[parameter]["step"]) == 0


def test_a_step_after_one_set_aside_is_as_if_that_had_not_been():
    (one, first), (other, second) = after_one_step(), after_one_step()

    one.grad = torch.full((4,), float("nan"))
    update_if(first, torch.tensor(False))
    for parameter, optimizer in ((one, first), (other, second)):
        parameter.grad = torch.arange(4.0).flip(0)
        update_if(optimizer, torch.tensor(True))

    assert torch.equal(one, other)
