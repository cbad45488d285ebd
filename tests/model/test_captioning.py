"""What captions cost: packed rows against the stock model's forward, a caption a row."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captioncrafter.model.captioning import caption_loss, target_states
from captioncrafter.model.cut import Cut, is_decoder_only
from captioncrafter.model.prefix import context_of
from captioncrafter.training.packing import TokenIds
from families import END, TEXTS, Family, differing, owners_of, row_losses
from tiny import write_tiny_checkpoint

token_ids = st.lists(st.integers(4, 44), max_size=7).map(lambda ids: [*ids, END])
caption_rows = st.lists(st.lists(token_ids, min_size=1, max_size=5), min_size=1, max_size=len(TEXTS))
ROWS = [[[5, 6, 7, END], [8, END]], [[9, 10, END]], [[11, END], [12, 13, 14, 15, END]]]


def logits_of(family: Family, rows: list[list[TokenIds]]) -> Tensor:
    """A row for each caption token: in the order in which captions stand in their rows."""
    with torch.no_grad():
        hidden = target_states(family.model, family.context(range(len(rows))), family.packed(rows))
        return family.model.get_output_embeddings()(hidden)


@given(rows=caption_rows)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_packed_captions_cost_what_the_stock_model_says(family: Family, rows: list[list[TokenIds]]):
    ours, stock = family.loss(rows), family.stock_loss(rows)
    our_gradients, stock_gradients = family.gradients(ours), family.gradients(stock)

    assert abs(ours - stock) <= 1e-6 * stock
    assert differing(our_gradients, stock_gradients, stock_gradients) == []


def test_captions_of_a_model_with_a_tied_head_cost_what_the_stock_model_says(tmp_path: Path):
    tied = Family.at(write_tiny_checkpoint(tmp_path / "tied", tied=True))

    torch.testing.assert_close(tied.loss(ROWS).double(), tied.stock_loss(ROWS), rtol=1e-6, atol=0)


def test_every_layer_with_an_adapter_gets_a_gradient(family: Family):
    found = family.gradients(family.loss(ROWS))

    assert [name for name, gradient in found.items() if not gradient.norm() > 0] == []


def test_each_row_costs_what_the_stock_model_says_of_its_captions(family: Family):
    nothing = [[END]]

    losses = row_losses(family.model, family.context(range(3)), family.packed([nothing, ROWS[1], nothing]))

    with_it, without = (family.stock_loss([nothing, row, nothing]) for row in (ROWS[1], ROWS[1] * 2))
    torch.testing.assert_close(losses[1].double(), without - with_it, rtol=1e-5, atol=0)


def test_row_losses_add_up_to_the_loss(family: Family):
    context, captions = family.context(range(3)), family.packed(ROWS)

    losses = row_losses(family.model, context, captions)

    torch.testing.assert_close(losses.sum(), caption_loss(family.model, context, captions), rtol=1e-6, atol=0)


def test_every_target_belongs_to_the_row_of_its_caption(family: Family):
    owners = owners_of(family.packed(ROWS)).tolist()

    assert owners == [row for row, captions in enumerate(ROWS) for ids in captions for _ in ids]


@pytest.mark.parametrize("order", [1, -1], ids=["the first", "the last"])
def test_a_caption_never_sees_the_others_of_its_row(family: Family, order: int):
    kept, other, another = [5, 6, 7, END], [8, 9, 10, END], [20, 21, 22, END]
    at = slice(0, 4) if order == 1 else slice(4, 8)

    one, two = (logits_of(family, [[kept, neighbour][::order]]) for neighbour in (other, another))

    assert torch.equal(one[at], two[at])
    assert not torch.equal(one, two)


def test_a_token_never_sees_those_after_it(family: Family):
    one, other = (logits_of(family, [[[5, 6, last, 8, END]]]) for last in (7, 30))

    assert torch.equal(one[:3], other[:3])
    assert not torch.equal(one[3:], other[3:])


def test_a_caption_costs_the_same_wherever_in_the_row_it_stands(family: Family):
    first, second = [5, 6, 7, 8, END], [9, 10, END]

    one_way, other_way = family.loss([[first, second]]), family.loss([[second, first]])

    torch.testing.assert_close(one_way, other_way, rtol=1e-6, atol=0)


def test_a_longer_neighbour_row_never_changes_the_loss(family: Family):
    longest = [[7, 8, 9, 10, 11, 12, 13, END]] * 4

    together = row_losses(family.model, family.context(range(2)), family.packed([ROWS[0], longest]))
    alone = row_losses(family.model, family.context(range(1)), family.packed([ROWS[0]]))

    torch.testing.assert_close(together[:1], alone, rtol=1e-6, atol=0)


def test_what_stands_in_the_padding_of_captions_is_never_read(family: Family):
    context, captions = family.context(range(3)), family.packed(ROWS)
    length = captions.token_ids.shape[1]
    used = torch.tensor([sum(len(ids) - is_decoder_only(family.config) for ids in row) for row in ROWS])
    padding = torch.arange(length) >= used[:, None]
    changed = replace(captions, token_ids=captions.token_ids.masked_fill(padding, 30))

    one, other = (caption_loss(family.model, context, each) for each in (captions, changed))

    assert padding.any()
    assert torch.equal(one, other)


def test_what_stands_in_the_padding_of_prompts_is_never_read(family: Family):
    prompts = family.prompts_of(range(3))
    assert not prompts.mask.all()
    captions = family.packed(ROWS)

    def cost(words: Tensor) -> Tensor:
        known = context_of(family.model, family.pixels, Cut.IMAGES, replace(prompts, words=words))
        return caption_loss(family.model, known, captions)

    one, other = cost(prompts.words), cost(prompts.words.masked_fill(~prompts.mask, 30))

    assert torch.equal(one, other)


def test_no_position_is_nan_not_even_padding(family: Family):
    captions = family.packed([ROWS[0], [[5, 6, 7, 8, 9, 10, END]] * 5, [[END]]])
    everywhere = torch.arange(captions.mask.shape[0] * captions.mask.shape[-1])
    all_read = replace(captions, read_at=everywhere, targets=torch.zeros_like(everywhere))

    with torch.no_grad():
        hidden = target_states(family.model, family.context(range(3)), all_read)

    assert hidden.isfinite().all()


def test_captions_of_the_end_token_alone_have_a_cost(family: Family):
    rows = [[[END]], [[END], [END]]]

    torch.testing.assert_close(family.loss(rows).double(), family.stock_loss(rows), rtol=1e-6, atol=0)


def test_the_image_is_seen(family: Family):
    captions, prompts = family.packed([ROWS[0]]), family.prompts_of([0])

    own, another = (
        caption_loss(family.model, context_of(family.model, family.pixels[[image]], Cut.IMAGES, prompts), captions)
        for image in (0, 1)
    )

    assert abs(own - another) > 1e-3


def test_the_prompt_is_seen(family: Family):
    captions = [[[5, 6, END]]] * 2
    prompts = family.prompts_of([0, 1])

    same_image = context_of(family.model, family.pixels[[0, 0]], Cut.IMAGES, prompts)
    one, other = row_losses(family.model, same_image, family.packed(captions))

    assert abs(one - other) > 1e-3


def test_label_smoothing_is_the_stock_cross_entropys(family: Family):
    context, captions = family.context(range(3)), family.packed(ROWS)

    smoothed = caption_loss(family.model, context, captions, label_smoothing=0.1)

    log_probabilities = logits_of(family, ROWS).log_softmax(-1)
    right = log_probabilities.gather(1, captions.targets[:, None])[:, 0]
    expected = (-0.9 * right - 0.1 * log_probabilities.mean(-1)).sum()
    torch.testing.assert_close(smoothed.double(), expected, rtol=1e-6, atol=0)


def test_only_a_decoder_only_model_reads_image_and_prompt_in_the_rows_of_its_captions(family: Family):
    captions = family.packed(ROWS)

    before = captions.mask.shape[-1] - captions.token_ids.shape[1]

    assert before == (family.prompts_of(range(3)).positions.shape[1] if is_decoder_only(family.config) else 0)
