"""A tiny BLIP-2 of each kind of language model with an adapter on every layer, and what the stock model says of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioncrafter import recipe
from captioncrafter.data.images import decode_image
from captioncrafter.features.extract import pixel_values
from captioncrafter.model import lora
from captioncrafter.model.captioning import PackedCaptions, caption_loss, target_states
from captioncrafter.model.cut import Cut, is_decoder_only, parts_before
from captioncrafter.model.prefix import Context, context_of, features_at
from captioncrafter.model.prompts import Prompt, Prompts, encode_prompt, stacked
from captioncrafter.model.stock import Blip2, Processor, Tuned
from captioncrafter.training.packing import TokenIds, pack
from tiny import picture, write_tiny_checkpoint, write_tiny_opt_checkpoint

FAMILIES = {"t5": write_tiny_checkpoint, "opt": write_tiny_opt_checkpoint}
CUTS = [(family, cut) for family in FAMILIES for cut in Cut if (family, cut) != ("opt", Cut.ENCODER)]
TEXTS = ("a photo of", "question what colour is the dog answer", "")
END = 1

_XL = {"d_ff": 5120, "d_kv": 64, "d_model": 2048, "num_decoder_layers": 24, "num_heads": 32, "num_layers": 24}
_XXL = _XL | {"d_ff": 10240, "d_model": 4096, "num_heads": 64}
_2_7B = {"ffn_dim": 10240, "hidden_size": 2560, "num_attention_heads": 32, "num_hidden_layers": 32}
_6_7B = _2_7B | {"ffn_dim": 16384, "hidden_size": 4096}
_T5 = {
    "model_type": "t5",
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}
_OPT = {"model_type": "opt", "vocab_size": 50304, "eos_token_id": 50118}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Salesforce/blip2-flan-t5-xl": {"text_config": _T5 | _XL, "image_token_index": 32100},
    "Salesforce/blip2-flan-t5-xl-coco": {
        "text_config": _T5 | _XL,
        "image_token_index": 32100,
        "vision_config": {"image_size": 364},
    },
    "Salesforce/blip2-flan-t5-xxl": {"text_config": _T5 | _XXL, "image_token_index": 32100},
    "Salesforce/blip2-opt-2.7b": {
        "text_config": _OPT | _2_7B | {"word_embed_proj_dim": 2560},
        "image_token_index": 50265,
    },
    "Salesforce/blip2-opt-6.7b": {
        "text_config": _OPT | _6_7B | {"word_embed_proj_dim": 4096},
        "image_token_index": 50265,
    },
}
"""What the configurations of the family say apart from transformers' defaults.

xl and opt-2.7b as their config.json has it; xxl and opt-6.7b by the dimensions of google/flan-t5-xxl and
facebook/opt-6.7b; -coco by the 364 pixels at which LAVIS tuned it.
"""


def published_config(name: str) -> Any:
    """The `Blip2Config` of a model of the family, full size."""
    from transformers import Blip2Config

    return Blip2Config(**PUBLISHED[name])


_EVERYWHERE = r"(?:vision_model|qformer|language_model)\..*"
_NOT_REACHED = r"(?!qformer\.encoder\.layer\.\d\.(?:intermediate|output)\.)"  # the Q-Former's way for text


@dataclass(frozen=True)
class Family:
    """A model in float64, dropout off, so that what differs at all differs by more than rounding.

    Every linear layer has an adapter that is not zero, and the projection trains whole. Image i has prompt i.
    """

    folder: Path
    processor: Processor
    tuned: Tuned
    model: Blip2
    pixels: Tensor
    prompts: tuple[Prompt, ...]

    @classmethod
    def at(cls, folder: Path) -> "Family":
        """The family of the checkpoint in `folder`."""
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        processor = Blip2Processor.from_pretrained(folder)
        model = Blip2ForConditionalGeneration.from_pretrained(folder).requires_grad_(False)
        reach = recipe.Lora(rank=2, dropout=0.0, pattern=_NOT_REACHED + _EVERYWHERE, train_projection=True)
        tuned = lora.attach(model, reach, seed=0).double().eval()
        draw = torch.Generator().manual_seed(1)
        for name, parameter in lora.trainable(tuned).items():
            if ".lora_B." in name:
                parameter.data.normal_(std=0.1, generator=draw)
        pixels = pixel_values(processor, [decode_image(picture(number)) for number in range(len(TEXTS))])
        prompts = tuple(encode_prompt(processor, text) for text in TEXTS)
        return cls(folder, processor, tuned, model, pixels.double(), prompts)

    @property
    def config(self):
        """The model's `Blip2Config`."""
        return self.model.config

    def prompts_of(self, images: Sequence[int]) -> Prompts:
        """The prompts of `images`, as one batch."""
        return stacked([self.prompts[image] for image in images], pad_id=self.config.text_config.pad_token_id)

    def context(self, images: Sequence[int], cut: Cut = Cut.IMAGES) -> Context:
        """What the decoder attends to, through what would be stored at `cut`."""
        prompts = self.prompts_of(images)
        features = features_at(self.model, self.pixels[list(images)], cut, prompts)
        return context_of(self.model, features, cut, prompts)

    def packed(self, rows: Sequence[Sequence[TokenIds]]) -> PackedCaptions:
        """The captions of the first images, an image a row."""
        return pack(rows, self.config, self.prompts_of(range(len(rows))))

    def loss(self, rows: Sequence[Sequence[TokenIds]], cut: Cut = Cut.IMAGES) -> Tensor:
        """Our cost of the captions of the first images."""
        return caption_loss(self.model, self.context(range(len(rows)), cut), self.packed(rows))

    def stock_loss(self, rows: Sequence[Sequence[TokenIds]]) -> Tensor:
        """The stock forward's, one caption a row, with its own shift, padding and mean."""
        captions = [(image, ids) for image, row in enumerate(rows) for ids in row]
        written = [self.prompts[image].input_ids for image, _ in captions]
        labels = [torch.tensor(ids) for _, ids in captions]
        if is_decoder_only(self.config):
            pairs = list(zip(written, labels, strict=True))
            written = [torch.cat(pair) for pair in pairs]
            labels = [torch.cat([torch.full_like(prompt, -100), ids]) for prompt, ids in pairs]
        outputs = self.tuned(
            pixel_values=self.pixels[[image for image, _ in captions]],
            input_ids=padded(written, 0),
            attention_mask=padded([torch.ones_like(ids) for ids in written], 0),
            labels=padded(labels, -100),
        )
        return outputs.loss.double() * sum(len(ids) for _, ids in captions)

    def gradients(self, loss: Tensor, cut: Cut = Cut.IMAGES) -> dict[str, Tensor]:
        """Of everything that trains behind `cut`, by its name in the tuned model."""
        before = tuple(f"base_model.model.{part}." for part in parts_before(cut))
        parameters = {n: p for n, p in lora.trainable(self.tuned).items() if not n.startswith(before)}
        found = torch.autograd.grad(loss, list(parameters.values()))
        return dict(zip(parameters, found, strict=True))


def padded(rows: Sequence[Tensor], value: int) -> Tensor:
    """One tensor of rows of different lengths, padded behind."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def differing(ours: dict[str, Tensor], stock: dict[str, Tensor], names: Iterable[str]) -> list[str]:
    """Those of `names` whose gradients differ by more than float32's rounding of the logits."""
    rounding = 2e-6 * nn.utils.get_total_norm(stock.values())
    return [name for name in names if (ours[name] - stock[name]).norm() > rounding]


def owners_of(captions: PackedCaptions) -> torch.Tensor:
    """The row that each target belongs to."""
    return captions.read_at // captions.mask.shape[-1]


def row_losses(model: Any, context: Context, captions: PackedCaptions) -> torch.Tensor:
    """The summed loss of each row's captions, in nats, with all logits at once."""
    logits = model.get_output_embeddings()(target_states(model, context, captions)).float()
    losses = functional.cross_entropy(logits, captions.targets, reduction="none")
    return losses.new_zeros(len(captions.token_ids)).index_add(0, owners_of(captions), losses)
