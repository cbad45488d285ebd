"""A step that memory is too small for is taken in halves, with the same result."""

import pytest
import torch
from torch import Tensor

from captioncrafter.errors import CaptionCrafterError
from captioncrafter.training.step import is_out_of_memory
from trainees import Beginning, MakeStepper, close, decoder_of, equal, gradients, refuse_more_than, weights

RATE = 1e-2


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


def test_any_other_error_of_a_step_is_not_taken_for_lack_of_memory(start: Beginning, make_stepper: MakeStepper):
    stepper = make_stepper(start)

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


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    ],
)
def test_memory_that_a_library_of_cuda_could_not_get_is_known(words: str):
    assert is_out_of_memory(RuntimeError(words))
