"""One update is the stock model's gradient, however the step is divided, and leaves the weights where it cannot be."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from captioncrafter.errors import CaptionCrafterError
from captioncrafter.model.cut import Cut
from captioncrafter.training.mode import training_mode
from captioncrafter.training.processes import Processes
from captioncrafter.training.step import Stepper, is_out_of_memory
from tiny import write_tiny_opt_checkpoint
from trainees import ALONE, CPU, IMAGES, Beginning, decoder_of, refuse_more_than, write_without_dropout

RATE = 1e-2
MakeStepper = Callable[..., Stepper]
Gradients = dict[str, Tensor]


@pytest.fixture(scope="module")
def dropping(tiny_checkpoint: Path) -> Beginning:
    """Dropout as flan-T5 has it."""
    return Beginning(tiny_checkpoint)


@pytest.fixture(scope="module")
def exact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Beginning]:
    """Without dropout, by what lies behind the cut."""
    folder = tmp_path_factory.mktemp("exact")
    t5 = write_without_dropout(tiny_checkpoint, folder / "t5")
    opt = write_without_dropout(write_tiny_opt_checkpoint(folder / "dropping-opt"), folder / "opt")
    prompts = ("a photo of", "a big photo of the")
    return {
        "efficient": Beginning(t5, Cut.QFORMER, prompts=prompts),
        "fast": Beginning(t5, Cut.ENCODER, prompts=prompts),
        "quality": Beginning(t5, Cut.VISION, prompts=prompts),
        "opt": Beginning(opt, Cut.QFORMER, prompts=prompts),
    }


@pytest.fixture
def make_stepper() -> Iterator[MakeStepper]:
    made = []

    def make(
        start: Beginning,
        *,
        size: int = IMAGES,
        preset: str = "efficient",
        dropout: float = 0.0,
        source=None,
        processes: Processes = ALONE,
        **training: object,
    ) -> Stepper:
        changes = {"images_per_step": IMAGES, "images_per_batch": size, "max_grad_norm": 1e9} | training
        options = start.options(dropout=dropout, preset=preset, training=changes)
        stepper = start.stepper(options, source=source, processes=processes)
        training_mode(stepper.tuned, options.training)
        made.append(stepper)
        return stepper

    yield make
    for stepper in made:
        stepper.feed.close()


def gradients(stepper: Stepper) -> Gradients:
    return {name: p.grad.clone() for name, p in stepper.parameters.items() if p.grad is not None}


def weights(stepper: Stepper) -> Gradients:
    return {name: p.detach().clone() for name, p in stepper.parameters.items()}


def close(one: Gradients, other: Gradients) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6)


def equal(one: Gradients, other: Gradients) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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


def test_under_dropout_two_processes_parts_add_up_to_the_step_of_one(dropping: Beginning, make_stepper: MakeStepper):
    def part(rank: int, world: int) -> tuple[float, Gradients]:
        stepper = make_stepper(dropping, size=2, dropout=0.05, processes=Processes(CPU, rank, world))
        loss = stepper._gradients(0, sum(dropping.images.lengths))
        return float(loss), gradients(stepper)

    (whole_loss, whole), (one_loss, one), (other_loss, other) = part(0, 1), part(0, 2), part(1, 2)

    assert one_loss + other_loss == pytest.approx(whole_loss, rel=1e-6)
    close({name: one[name] + other[name] for name in one}, whole)


def test_a_process_that_halved_its_batches_still_has_its_part(exact: dict[str, Beginning], make_stepper: MakeStepper):
    def part(rank: int, world: int, limit: int) -> Gradients:
        stepper = make_stepper(exact["efficient"], size=2, processes=Processes(CPU, rank, world))
        refuse_more_than(stepper.tuned, limit)
        stepper._gradients(0, sum(exact["efficient"].images.lengths))
        return gradients(stepper)

    whole, one, other = part(0, 1, IMAGES), part(0, 2, 1), part(1, 2, IMAGES)

    close({name: one[name] + other[name] for name in one}, whole)


def test_dropout_is_drawn_from_seed_and_step_alone(dropping: Beginning, make_stepper: MakeStepper):
    one, other = make_stepper(dropping, dropout=0.05), make_stepper(dropping, dropout=0.05)

    one.update(3, RATE)
    torch.rand(100)
    other.update(3, RATE)

    assert equal(weights(one), weights(other))


def test_each_step_and_each_batch_of_it_draws_its_own_dropout(dropping: Beginning, make_stepper: MakeStepper):
    twins = Beginning(dropping.found.folder)
    twins.captions[:] = [twins.captions[0]] * IMAGES
    twins.features[:] = twins.features[0].clone()
    stepper = make_stepper(twins, size=1, dropout=0.05)
    losses = []
    stepper.loss_of = lambda batch: losses.append(loss := Stepper.loss_of(stepper, batch)) or loss

    for step in (0, 1):
        stepper._gradients(step, 1)

    assert len(losses) == len({float(loss.detach()) for loss in losses}) == 2 * IMAGES


def test_another_seed_drops_otherwise(dropping: Beginning, make_stepper: MakeStepper):
    one, other = (make_stepper(dropping, dropout=0.05) for _ in range(2))
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


def test_the_rate_is_that_of_the_step(dropping: Beginning, make_stepper: MakeStepper):
    stepper = make_stepper(dropping)
    before = weights(stepper)

    stepper.update(0, 0.0)

    assert equal(weights(stepper), before)


@pytest.mark.parametrize(("limit", "size", "halvings"), [(3, 6, 1), (2, 6, 2), (1, 6, 2), (1, 3, 1), (1, 2, 1)])
def test_out_of_memory_a_step_is_taken_in_halves(
    exact: dict[str, Beginning], make_stepper: MakeStepper, limit: int, size: int, halvings: int
):
    roomy, tight = make_stepper(exact["efficient"]), make_stepper(exact["efficient"], size=size)
    asked = refuse_more_than(tight.tuned, limit)

    one, other = roomy.update(0, RATE), tight.update(0, RATE)

    assert tight.halvings == halvings
    assert max(asked) > limit
    assert float(other.loss) == pytest.approx(float(one.loss), rel=1e-6)
    close(gradients(tight), gradients(roomy))
    close(weights(tight), weights(roomy))


def test_later_steps_stay_halved_and_it_is_said_once(
    exact: dict[str, Beginning], make_stepper: MakeStepper, capsys: pytest.CaptureFixture[str]
):
    stepper = make_stepper(exact["efficient"])
    asked = refuse_more_than(stepper.tuned, 3)

    for step in range(3):
        stepper.update(step, RATE)

    assert asked == [6, *[3] * 6]
    said = capsys.readouterr().err
    assert said.count("out of memory") == 1
    assert "step 1: out of memory with 6 images at once; from here on 3" in said


def test_one_image_that_does_not_fit_is_an_error_that_says_what_helps(
    exact: dict[str, Beginning], make_stepper: MakeStepper
):
    stepper = make_stepper(exact["efficient"], size=2)
    before = weights(stepper)
    refuse_more_than(stepper.tuned, 0)

    with pytest.raises(
        CaptionCrafterError, match=r"step 5: out of memory with one image at once .*gradient_check"
    ) as raised:
        stepper.update(4, RATE)

    assert "More words" not in str(raised.value)
    assert equal(weights(stepper), before)


def test_memory_that_ends_in_the_backward_pass_leaves_no_half_of_a_gradient(
    exact: dict[str, Beginning], make_stepper: MakeStepper
):
    roomy, tight = make_stepper(exact["efficient"], size=2), make_stepper(exact["efficient"], size=2)
    backwards = []

    def refuse_second(gradient: Tensor) -> None:
        backwards.append(len(gradient))
        if len(backwards) == 2:
            raise torch.OutOfMemoryError("out of memory in backward")

    # Behind the first block: by then the second one has its part of the gradient.
    first_block = decoder_of(tight.tuned).block[0]
    first_block.register_forward_hook(lambda block, inputs, outputs: outputs[0].register_hook(refuse_second) and None)

    roomy.update(0, RATE)
    tight.update(0, RATE)

    assert backwards == [2, 2, *[1] * 6]
    close(gradients(tight), gradients(roomy))


def test_any_other_error_of_a_step_is_not_taken_for_lack_of_memory(dropping: Beginning, make_stepper: MakeStepper):
    stepper = make_stepper(dropping)

    def fail(*anything: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    decoder_of(stepper.tuned).register_forward_pre_hook(fail)

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        stepper.update(0, RATE)
    assert stepper.halvings == 0


def test_what_torch_says_when_the_system_has_no_memory_is_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8)

    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(dropping: Beginning, make_stepper: MakeStepper, bad: float):
    def source(images: Sequence[int], *, step: int) -> Tensor:
        features = dropping.source(images, step=step).clone()
        if step == 1:
            features[0, 0, 0] = bad
        return features

    stepper = make_stepper(dropping, size=2, source=source)
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


def test_the_norm_is_that_before_clipping_and_clipping_makes_it_the_recipe_s(
    exact: dict[str, Beginning], make_stepper: MakeStepper
):
    loose, tight = make_stepper(exact["efficient"]), make_stepper(exact["efficient"], max_grad_norm=1e-3)

    one, other = loose.update(0, RATE), tight.update(0, RATE)

    assert float(one.norm) == float(other.norm) > 1e-3
    length = torch.cat([gradient.flatten() for gradient in gradients(tight).values()]).norm()
    assert float(length) == pytest.approx(1e-3, rel=1e-3)
