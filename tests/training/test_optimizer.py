"""The learning rate follows from the step alone: up, then half a cosine down."""

import pytest
import torch

from captioncrafter import recipe
from captioncrafter.training.optimizer import adamw, learning_rate

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
