"""One update is the stock model's gradient, however the step is divided, and leaves the weights where it cannot be."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from captioncrafter.training.feed import FeatureSource
from captioncrafter.training.processes import Processes
from captioncrafter.training.step import Stepper
from trainees import (
    CPU,
    IMAGES,
    Beginning,
    Gradients,
    MakeStepper,
    close,
    equal,
    gradients,
    refuse_more_than,
    weights,
)

RATE = 1e-2


def of_the_stock_model(start: Beginning, preset: str) -> tuple[float, Gradients]:
    """Mean loss and gradients over all caption tokens, by the stock forward from the pixels, a caption a call."""
    tuned = start.tuned(start.options(dropout=0.0, preset=preset))
    model = tuned.get_base_model().eval()
    tokens, mean = sum(start.images.lengths), 0.0
    for pixels, prompt, captions in zip(start.pixels, start.prompts, start.captions, strict=True):
        for ids in captions:
            inputs, labels = prompt.input_ids[None], torch.tensor([ids])
            if model.config.use_decoder_only_language_model:
                ignored = torch.full_like(inputs, -100)
                inputs, labels = torch.cat([inputs, labels], dim=1), torch.cat([ignored, labels], dim=1)
            loss = model(pixel_values=pixels[None], input_ids=inputs, labels=labels).loss * (len(ids) / tokens)
            loss.backward()
            mean += float(loss.detach())
    return mean, {name: p.grad for name, p in tuned.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", ["efficient", "fast", "quality", "opt"])
@pytest.mark.parametrize("size", [IMAGES, 1])
def test_loss_and_gradient_are_the_stock_model_s_mean_over_all_tokens(
    exact: dict[str, Beginning], make_stepper: MakeStepper, case: str, size: int
):
    preset = "efficient" if case == "opt" else case
    loss, expected = of_the_stock_model(exact[case], preset)
    stepper = make_stepper(exact[case], size=size, preset=preset)

    update = stepper.update(0, RATE)

    assert len(set(exact[case].images.lengths)) > 1  # else the mean of means would be the same
    assert (update.tokens, update.captions) == (sum(exact[case].images.lengths), sum(map(len, exact[case].captions)))
    assert float(update.loss) / update.tokens == pytest.approx(loss, rel=1e-5)
    close(gradients(stepper), expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_gradient_does_not_depend_on_how_many_images_are_computed_at_once(
    exact: dict[str, Beginning], make_stepper: MakeStepper, size: int
):
    whole, parts = make_stepper(exact["efficient"]), make_stepper(exact["efficient"], size=size)

    one, other = whole.update(0, RATE), parts.update(0, RATE)

    assert float(other.loss) == pytest.approx(float(one.loss), rel=1e-6)
    assert float(other.norm) == pytest.approx(float(one.norm), rel=1e-5)
    close(gradients(parts), gradients(whole))


def test_under_dropout_two_processes_parts_add_up_to_the_step_of_one(start: Beginning, make_stepper: MakeStepper):
    def part(rank: int, world: int) -> tuple[float, Gradients]:
        stepper = make_stepper(start, size=2, dropout=0.05, processes=Processes(CPU, rank, world))
        loss = stepper._gradients(0, sum(start.images.lengths))
        return float(loss), gradients(stepper)

    (whole_loss, whole), (one_loss, one), (other_loss, other) = part(0, 1), part(0, 2), part(1, 2)

    assert one_loss + other_loss == pytest.approx(whole_loss, rel=1e-6)
    close({name: one[name] + other[name] for name in one}, whole)


class Waits(TorchDispatchMode):
    """Counts how often a value is looked at, for which a GPU's queue would have to run empty."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", ["efficient", "fast", "quality", "opt"])
def test_where_no_prompt_is_padded_a_step_looks_at_no_value(
    exact: dict[str, Beginning], make_stepper: MakeStepper, case: str
):
    of_one_prompt = Beginning(exact[case].found.folder, exact[case].cut)
    stepper = make_stepper(of_one_prompt, size=2, preset="efficient" if case == "opt" else case, dropout=0.05)
    stepper.feed.batches(0, 2)  # those of the step after it are made in a thread, on the CPU as ever

    with Waits() as waits:
        update = stepper.update(1, RATE)

    assert waits.count == 0
    assert update.finite


def test_a_process_that_halved_its_batches_still_has_its_part(exact: dict[str, Beginning], make_stepper: MakeStepper):
    def part(rank: int, world: int, limit: int) -> Gradients:
        stepper = make_stepper(exact["efficient"], size=2, processes=Processes(CPU, rank, world))
        refuse_more_than(stepper.tuned, limit)
        stepper._gradients(0, sum(exact["efficient"].images.lengths))
        return gradients(stepper)

    whole, one, other = part(0, 1, IMAGES), part(0, 2, 1), part(1, 2, IMAGES)

    close({name: one[name] + other[name] for name in one}, whole)


def test_dropout_is_drawn_from_seed_and_step_alone(start: Beginning, make_stepper: MakeStepper):
    one, other = make_stepper(start, dropout=0.05), make_stepper(start, dropout=0.05)

    one.update(3, RATE)
    torch.rand(100)
    other.update(3, RATE)

    assert equal(weights(one), weights(other))


def test_each_step_and_each_batch_of_it_draws_its_own_dropout(start: Beginning, make_stepper: MakeStepper):
    twins = Beginning(start.found.folder)
    twins.captions[:] = [twins.captions[0]] * IMAGES
    twins.features[:] = twins.features[0].clone()
    stepper = make_stepper(twins, size=1, dropout=0.05)
    losses = []
    stepper.loss_of = lambda batch: losses.append(loss := Stepper.loss_of(stepper, batch)) or loss

    for step in (0, 1):
        stepper._gradients(step, 1)

    assert len(losses) == len({float(loss.detach()) for loss in losses}) == 2 * IMAGES


def test_another_seed_drops_otherwise(start: Beginning, make_stepper: MakeStepper):
    one, other = (make_stepper(start, dropout=0.05) for _ in range(2))
    other.seed = 1

    assert float(one.update(0, RATE).loss) != float(other.update(0, RATE).loss)


def test_a_step_takes_nothing_over_from_the_gradient_of_the_one_before(
    exact: dict[str, Beginning], make_stepper: MakeStepper
):
    stepper = make_stepper(exact["efficient"], size=2)
    stepper.update(0, 0.0)
    first = gradients(stepper)

    stepper.update(0, 0.0)

    assert equal(gradients(stepper), first)


def test_the_rate_is_that_of_the_step(start: Beginning, make_stepper: MakeStepper):
    stepper = make_stepper(start)
    before = weights(stepper)

    stepper.update(0, 0.0)

    assert equal(weights(stepper), before)


def spoiling(start: Beginning, bad: float) -> FeatureSource:
    """The features of `start`, with a `bad` number in the second step."""

    def source(images: Sequence[int], *, step: int) -> Tensor:
        features = start.source(images, step=step).clone()
        if step == 1:
            features[0, 0, 0] = bad
        return features

    return source


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(start: Beginning, make_stepper: MakeStepper, bad: float):
    stepper = make_stepper(start, size=2, source=spoiling(start, bad))
    assert bool(stepper.update(0, RATE).finite)
    before = weights(stepper)
    moments = {
        name: {key: t.clone() for key, t in stepper.optimizer.state[p].items()}
        for name, p in stepper.parameters.items()
    }

    update = stepper.update(1, RATE)

    assert not bool(update.finite)
    assert equal(weights(stepper), before)
    assert all(equal(stepper.optimizer.state[p], moments[name]) for name, p in stepper.parameters.items())
    assert bool(stepper.update(2, RATE).finite)


@pytest.mark.parametrize(("on_nonfinite", "goes_on"), [("stop", False), ("skip", True)])
def test_steps_after_one_that_is_not_finite_change_weights_only_where_it_is_set_aside(
    start: Beginning, make_stepper: MakeStepper, on_nonfinite: str, goes_on: bool
):
    stepper = make_stepper(start, size=2, source=spoiling(start, float("nan")), on_nonfinite=on_nonfinite)
    stepper.update(0, RATE)
    before = weights(stepper)

    stepper.update(1, RATE)
    stepper.update(2, RATE)

    assert equal(weights(stepper), before) is not goes_on


def test_the_norm_is_that_before_clipping_and_clipping_makes_it_the_recipe_s(
    exact: dict[str, Beginning], make_stepper: MakeStepper
):
    loose, tight = make_stepper(exact["efficient"]), make_stepper(exact["efficient"], max_grad_norm=1e-3)

    one, other = loose.update(0, RATE), tight.update(0, RATE)

    assert float(one.norm) == float(other.norm) > 1e-3
    length = torch.cat([gradient.flatten() for gradient in gradients(tight).values()]).norm()
    assert float(length) == pytest.approx(1e-3, rel=1e-3)
