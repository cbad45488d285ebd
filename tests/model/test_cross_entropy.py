"""The cost taken piece by piece is torch's own cross entropy, in value and gradient."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from captioncrafter.model.cross_entropy import summed_cross_entropy

TARGETS, WIDTH, VOCABULARY = 11, 8, 19
PIECES = [1, 3, TARGETS, 1000]


def piece(rows: int) -> int:
    """`logit_bytes` that allow as many rows at once."""
    return 4 * VOCABULARY * rows


def drawn(*, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Hidden states that take a gradient, and targets."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(TARGETS, WIDTH, generator=draw).to(dtype).requires_grad_()
    return hidden, torch.randint(VOCABULARY, (TARGETS,), generator=draw)


class _Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)


def frozen_head() -> nn.Module:
    return _Whole().head.requires_grad_(False)


def tuned_head(*, use_dora: bool = False) -> nn.Module:
    """A head with an adapter that is not zero, by PEFT."""
    from peft import LoraConfig, get_peft_model

    whole = get_peft_model(_Whole(), LoraConfig(r=2, target_modules=["head"], use_dora=use_dora))
    head = whole.get_base_model().head
    head.lora_B["default"].weight.data.normal_(generator=torch.Generator().manual_seed(2))
    return head


HEADS = {
    "frozen": frozen_head,
    "trained whole": lambda: _Whole().head,
    "lora": tuned_head,
    "dora": lambda: tuned_head(use_dora=True),
}


def reference(hidden: Tensor, head: nn.Module, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    return functional.cross_entropy(head(hidden).float(), targets, reduction="sum", label_smoothing=label_smoothing)


def gradients(loss: Tensor, hidden: Tensor, head: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, *(weight for weight in head.parameters() if weight.requires_grad)]))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", PIECES)
@pytest.mark.parametrize("kind", HEADS)
def test_value_and_gradients_are_those_of_torch_for_pieces_of_any_size(kind: str, rows: int, label_smoothing: float):
    head = HEADS[kind]()
    hidden, targets = drawn()

    ours = summed_cross_entropy(hidden, head, targets, label_smoothing=label_smoothing, logit_bytes=piece(rows))

    whole = reference(hidden, head, targets, label_smoothing)
    torch.testing.assert_close(ours, whole)
    torch.testing.assert_close(gradients(ours, hidden, head), gradients(whole, hidden, head), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_the_gradient_follows_what_becomes_of_the_loss(kind: str):
    head = HEADS[kind]()
    hidden, targets = drawn()

    sevenths = summed_cross_entropy(hidden, head, targets, logit_bytes=piece(3)) / 7
    expected = [each / 7 for each in gradients(reference(hidden, head, targets), hidden, head)]

    torch.testing.assert_close(gradients(sevenths, hidden, head), expected, rtol=1e-5, atol=1e-6)


def test_batches_add_up_in_the_gradients_that_are_kept():
    head = tuned_head()
    hidden, targets = drawn()

    for at in (slice(0, 4), slice(4, TARGETS)):
        (summed_cross_entropy(hidden[at], head, targets[at], logit_bytes=piece(2)) / TARGETS).backward()

    kept = [hidden.grad, *(weight.grad for weight in head.parameters() if weight.requires_grad)]
    expected = gradients(reference(hidden, head, targets) / TARGETS, hidden, head)
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", PIECES)
def test_the_value_is_the_same_where_nothing_takes_a_gradient(rows: int):
    head = tuned_head()
    hidden, targets = drawn()

    with torch.no_grad():
        ours = summed_cross_entropy(hidden, head, targets, logit_bytes=piece(rows))

    assert not ours.requires_grad
    torch.testing.assert_close(ours, reference(hidden, head, targets).detach())


def test_a_trained_head_learns_from_hidden_states_that_do_not():
    head = tuned_head()
    hidden, targets = drawn()

    summed_cross_entropy(hidden.detach(), head, targets, logit_bytes=piece(3)).backward()

    trained = [weight for weight in head.parameters() if weight.requires_grad]
    expected = torch.autograd.grad(reference(hidden, head, targets), trained)
    torch.testing.assert_close([weight.grad for weight in trained], list(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", PIECES)
def test_half_precision_is_summed_in_float32_and_its_gradient_comes_back_in_its_own(rows: int):
    head = frozen_head().bfloat16()
    hidden, targets = drawn(dtype=torch.bfloat16)

    ours = summed_cross_entropy(hidden, head, targets, logit_bytes=piece(rows))

    (gradient,) = gradients(ours / 7, hidden, head)
    (expected,) = gradients(reference(hidden, head, targets) / 7, hidden, head)
    assert (ours.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(ours, reference(hidden, head, targets))
    torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=1e-3)


def test_many_small_costs_do_not_drown_in_half_precision():
    head = nn.Linear(WIDTH, 5, bias=False).bfloat16().requires_grad_(False)
    hidden = torch.zeros(1000, WIDTH, dtype=torch.bfloat16, requires_grad=True)

    loss = summed_cross_entropy(hidden, head, torch.zeros(1000, dtype=torch.long), logit_bytes=4 * 5)

    torch.testing.assert_close(loss, 1000 * torch.tensor(5.0).log(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("gradient", [True, False])
def test_no_more_logits_are_held_than_allowed(gradient: bool):
    head, seen = frozen_head(), []
    head.register_forward_hook(lambda layer, inputs, logits: seen.append(len(logits)))
    hidden, targets = drawn()

    with torch.set_grad_enabled(gradient):
        summed_cross_entropy(hidden, head, targets, logit_bytes=piece(4))

    assert seen == [4, 4, 3]
