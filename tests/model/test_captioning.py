"""What captions cost: our road (stored features, packed rows) against the stock model's forward."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captioncrafter import recipe
from captioncrafter.data.images import decode_image
from captioncrafter.features.extract import pixel_values
from captioncrafter.model import checkpoint, lora
from captioncrafter.model.captioning import (
    IGNORE,
    PackedCaptions,
    caption_logits,
    encode_prompt,
    query_outputs,
    summed_loss,
)
from captioncrafter.training.packing import TokenIds, pack
from tiny import load_tiny, picture, tiny_processor

IMAGES = 3
END = 1


class Tiny:
    """The tiny model, dropout off, with an adapter that is not zero on any kind of layer; images as it sees them.

    In float64, so that what differs at all differs by more than rounding.
    """

    def __init__(self, folder: Path) -> None:
        _, self.processor, self.model = load_tiny(folder)
        targets = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")
        self.tuned = lora.attach(self.model, recipe.Lora(rank=2, dropout=0.0, targets=targets), seed=0).eval()
        draw = torch.Generator().manual_seed(1)
        for name, parameter in lora.trainable(self.tuned).items():
            if ".lora_B." in name:
                parameter.data.normal_(std=0.1, generator=draw)
        self.tuned.double()
        pictures = [decode_image(picture(number)) for number in range(IMAGES)]
        self.pixels = pixel_values(self.processor, pictures).double()
        self.features = query_outputs(self.model, self.pixels)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Tiny:
    return Tiny(tiny_checkpoint)


def packed(rows: list[list[TokenIds]]) -> PackedCaptions:
    return pack(rows, start_id=0, pad_id=0)


def our_logits(tiny: Tiny, images: slice, captions: PackedCaptions) -> Tensor:
    return caption_logits(tiny.model, tiny.features[images], encode_prompt(tiny.processor, "a photo of"), captions)


def our_loss(tiny: Tiny, images: slice, captions: PackedCaptions) -> Tensor:
    return summed_loss(our_logits(tiny, images, captions), captions.labels)


def stock_loss(tiny: Tiny, rows: list[list[TokenIds]]) -> Tensor:
    """Of the first images: from the stock forward with one caption a row and its own shift, padding and mean."""
    captions = [(image, ids) for image, row in enumerate(rows) for ids in row]
    labels = nn.utils.rnn.pad_sequence([torch.tensor(ids) for _, ids in captions], True, IGNORE)
    inputs = tiny.processor(images=[torch.zeros(3, 32, 32)], text="a photo of", return_tensors="pt").input_ids
    inputs = inputs.expand(len(captions), -1)
    outputs = tiny.tuned(
        pixel_values=tiny.pixels[[image for image, _ in captions]],
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        labels=labels,
    )
    return outputs.loss * (labels != IGNORE).sum()


def gradients(tiny: Tiny, loss: Tensor) -> dict[str, Tensor]:
    parameters = lora.trainable(tiny.tuned)
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize(
    "text", ["a photo of", "", " ", "question what colour answer", "a  photo \n of", "unknownword"]
)
def test_the_prompt_has_the_ids_that_the_processor_writes(tiny: Tiny, text: str):
    expected = tiny.processor(images=[torch.zeros(3, 32, 32)], text=text, return_tensors="pt").input_ids[0]

    assert torch.equal(encode_prompt(tiny.processor, text).input_ids, expected)


@pytest.mark.parametrize("text", ["a photo of", "", "Question: what is this? Answer:", "  Ein Foto,\tüber "])
def test_the_published_processor_writes_the_same_prompt(published_files: Path, tmp_path: Path, text: str):
    shutil.copytree(published_files.parents[1] / "tokenizers" / "t5", tmp_path / "published")
    shutil.copytree(published_files, tmp_path / "published", dirs_exist_ok=True)
    published = checkpoint.load_processor(checkpoint.find(str(tmp_path / "published")))

    expected = published(images=[torch.zeros(3, 224, 224)], text=text, return_tensors="pt").input_ids[0]

    assert torch.equal(encode_prompt(published, text).input_ids, expected)


def test_the_features_projected_are_what_the_language_model_is_given(tiny: Tiny):
    with torch.no_grad():
        projected = tiny.model.language_projection(tiny.features)
        stock = tiny.model.get_image_features(tiny.pixels).pooler_output

    assert torch.equal(projected, stock)


token_ids = st.lists(st.integers(2, 44), max_size=9).map(lambda ids: [*ids, END])
caption_rows = st.lists(st.lists(token_ids, min_size=1, max_size=4), min_size=1, max_size=IMAGES)


@given(rows=caption_rows)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_packed_captions_over_features_cost_what_the_stock_model_says(tiny: Tiny, rows: list[list[TokenIds]]):
    ours, stock = our_loss(tiny, slice(len(rows)), packed(rows)), stock_loss(tiny, rows)
    our_gradients, stock_gradients = gradients(tiny, ours), gradients(tiny, stock)

    assert abs(ours - stock) <= 1e-6 * stock
    rounding = 1e-6 * nn.utils.get_total_norm(stock_gradients.values())
    assert [n for n, gradient in stock_gradients.items() if (our_gradients[n] - gradient).norm() > rounding] == []


def test_every_layer_with_an_adapter_gets_a_gradient(tiny: Tiny):
    loss = our_loss(tiny, slice(2), packed([[[5, 6, END], [7, END]], [[8, 9, 10, END]]]))

    assert [name for name, gradient in gradients(tiny, loss).items() if not gradient.norm() > 0] == []


def test_padding_never_changes_the_loss(tiny: Tiny):
    captions = packed([[[5, 6, 7, END], [8, END]]])
    size = captions.labels.shape[1]
    longer = PackedCaptions(
        nn.functional.pad(captions.decoder_input_ids, (0, 7), value=0),
        nn.functional.pad(captions.mask, (0, 7, 0, 7)) | (torch.arange(size + 7) >= size)[:, None],
        nn.functional.pad(captions.labels, (0, 7), value=IGNORE),
    )

    short, long = (our_loss(tiny, slice(1), each) for each in (captions, longer))

    torch.testing.assert_close(long, short, rtol=1e-6, atol=0)


def test_a_longer_neighbour_row_never_changes_the_loss(tiny: Tiny):
    alone, neighbour = [[5, 6, END]], [[7, 8, 9, 10, 11, END], [12, 13, END]]

    together = our_loss(tiny, slice(2), packed([alone, neighbour]))
    apart = our_loss(tiny, slice(1), packed([alone]))
    apart = apart + our_loss(tiny, slice(1, 2), packed([neighbour]))

    torch.testing.assert_close(together, apart, rtol=1e-6, atol=0)


@pytest.mark.parametrize("position", [0, 1], ids=["the first", "the last"])
def test_a_caption_never_sees_the_others_of_its_row(tiny: Tiny, position: int):
    kept, other, another = [5, 6, 7, END], [8, 9, 10, END], [20, 21, 22, END]
    at = slice(position * 4, position * 4 + 4)

    with torch.no_grad():
        seen = [
            our_logits(tiny, slice(1), packed([row[:: 1 - 2 * position]]))[:, at]
            for row in ([kept, other], [kept, another])
        ]

    assert torch.equal(*seen)


def test_a_caption_costs_the_same_wherever_in_the_row_it_stands(tiny: Tiny):
    first, second = [5, 6, 7, 8, END], [9, 10, END]

    one_way = our_loss(tiny, slice(1), packed([[first, second]]))
    other_way = our_loss(tiny, slice(1), packed([[second, first]]))

    torch.testing.assert_close(one_way, other_way, rtol=1e-6, atol=0)


def test_a_token_never_sees_those_after_it(tiny: Tiny):

    with torch.no_grad():
        one, other = (our_logits(tiny, slice(1), packed([[[5, 6, last, 8, END]]])) for last in (7, 30))

    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.equal(one[:, 3:], other[:, 3:])


def test_the_image_is_seen(tiny: Tiny):
    captions = packed([[[5, 6, END]]])

    own, another = (our_loss(tiny, slice(at, at + 1), captions) for at in (0, 1))

    assert abs(own - another) > 1e-3


def test_an_ignored_label_carries_no_weight():
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    ignored = torch.tensor([[2, IGNORE, IGNORE]])

    loss = summed_loss(logits, ignored)

    torch.testing.assert_close(loss, -logits[0, 0].log_softmax(-1)[2])


def test_label_smoothing_spreads_its_share_over_the_vocabulary():
    logits = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(0))

    smoothed = summed_loss(logits, torch.tensor([[2]]), label_smoothing=0.1)

    log_probabilities = logits[0, 0].log_softmax(-1)
    torch.testing.assert_close(smoothed, -0.9 * log_probabilities[2] - 0.1 * log_probabilities.mean())


def test_the_loss_is_summed_in_float32_whatever_the_logits_are():
    logits = torch.zeros(1, 300, 5, dtype=torch.bfloat16)

    loss = summed_loss(logits, torch.zeros(1, 300, dtype=torch.long))

    torch.testing.assert_close(loss, 300 * torch.tensor(5.0).log())


def test_the_tiny_processor_writes_as_many_image_positions_as_it_says():
    prompt = encode_prompt(tiny_processor(), "a photo of")

    assert prompt.image_positions == 3
