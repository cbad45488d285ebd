"""The miniature before training: its tokenizer, its sizes, and initial weights from which it learns in minutes."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, normalizers
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessorPil,
    PreTrainedTokenizerFast,
)

from captioncrafter.data.scenes.questions import ask
from captioncrafter.data.scenes.wording import house, terse
from captioncrafter.data.scenes.world import draw_scene

IMAGE_SIZE = 224
PATCH_SIZE = 28
SIDE = IMAGE_SIZE // PATCH_SIZE
"""Patches along a side of the picture."""

QUERIES = 16
WIDTH = 256
VISION_LAYERS = 6
HEADS = 4
HEAD_WIDTH = WIDTH // HEADS

ROWS = 4160
"""Of the embedding: all that 30 MB leave room for."""

SPECIAL = ("<pad>", "</s>", "<unk>")


def fresh_processor(tokenizer: str, captions: Sequence[str]) -> Blip2Processor:
    """`tokenizer`, flan-T5's by hub name or folder, is cut to what `captions` and drawn scenes are made of."""
    images = BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return Blip2Processor(images, _cut_tokenizer(tokenizer, captions), num_query_tokens=QUERIES)


def _cut_tokenizer(source: str, captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """flan-T5's unigram tokenizer with some lower-case English pieces and all single characters only.

    Kept are the words of scenes and of questions about them, then the pieces that `captions` use most, then the
    likeliest. A unigram vocabulary can be cut: words whose piece is gone are spelled with smaller ones.
    """
    full = AutoTokenizer.from_pretrained(source)
    stated = json.loads(full.backend_tokenizer.to_str())
    pieces = stated["model"]["vocab"][len(SPECIAL) :]
    used = Counter(piece for caption in captions for piece in full.tokenize(caption))
    used.update({piece: len(captions) for text in _scene_texts() for piece in full.tokenize(text)})
    words = [piece for piece in pieces if re.fullmatch(r"▁?[a-z]{2,}|▁[a-z0-9]", piece[0])]
    words.sort(key=lambda piece: (-used[piece[0]], -piece[1]))
    characters = [piece for piece in pieces if len(piece[0]) == 1]
    room = ROWS - len(SPECIAL) - len(characters) - 1  # the last is `<image>`, which the processor adds
    stated["model"]["vocab"] = [[piece, 0.0] for piece in SPECIAL] + characters + words[:room]
    stated["added_tokens"] = [token for token in stated["added_tokens"] if token["content"] in SPECIAL]
    small = Tokenizer.from_str(json.dumps(stated))
    small.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(r"\s+", " "), normalizers.Strip()])
    return PreTrainedTokenizerFast(
        tokenizer_object=small, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def _scene_texts() -> list[str]:
    """What is said and asked of some scenes: all their words occur in a few hundred."""
    scenes = [draw_scene(0, "train", number) for number in range(400)]
    asked = [f"{question.prompt} {question.answers[0]}" for scene in scenes for question in ask(scene, 5)]
    return [text for scene in scenes for text in (*terse(scene), *house(scene))] + asked


def fresh_model(
    processor: Blip2Processor, pixels: Float[Tensor, "picture channel y x"], *, seed: int
) -> Blip2ForConditionalGeneration:
    """Random weights at scales that train: transformers' own expect pre-trained ones to take their place.

    `pixels` are some photos as the model reads them: their patches tell what a patch is mostly made of.
    """
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(_config(processor))
    language = model.language_model
    with torch.no_grad():
        for half in (model.vision_model, model.qformer):
            for layer in half.modules():
                if isinstance(layer, torch.nn.Linear):
                    torch.nn.init.xavier_uniform_(layer.weight)
        _read_patches(model.vision_model.embeddings.patch_embedding, pixels)
        _look_at_neighbours(model.vision_model)
        model.query_tokens.normal_()
        torch.nn.init.xavier_uniform_(model.language_projection.weight)
        language.shared.weight.normal_(std=0.04)
        language.lm_head.weight = torch.nn.Parameter(0.04 * torch.randn_like(language.shared.weight))
    return model


def _config(processor: Blip2Processor) -> Blip2Config:
    assert len(processor.tokenizer) <= ROWS
    return Blip2Config(
        vision_config={
            "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": HEADS, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "initializer_range": 0.02,
        },
        qformer_config={
            "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": HEADS,
            "encoder_hidden_size": WIDTH, "vocab_size": ROWS,
        },
        text_config={
            "model_type": "t5", "vocab_size": ROWS, "d_model": WIDTH, "d_kv": HEAD_WIDTH, "d_ff": 2 * WIDTH,
            "num_layers": 3, "num_decoder_layers": 3, "num_heads": HEADS, "feed_forward_proj": "gated-gelu",
            "decoder_start_token_id": 0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
            "tie_word_embeddings": False,
        },
        num_query_tokens=QUERIES,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip


def _read_patches(embedding: Any, pixels: Float[Tensor, "picture channel y x"]) -> None:
    """Lets the patch embedding begin with the principal components of photos' patches, half-whitened and turned.

    Random filters would see little beside a patch's mean colour, and of 2,352 numbers 256 hold nearly all there is.
    """
    patches = functional.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2).flatten(0, 1)
    variances, axes = torch.linalg.eigh(torch.cov(patches.T))
    filters = (axes[:, -WIDTH:] * variances[-WIDTH:].clamp(min=1e-6) ** -0.25).T
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0] @ filters
    spread = (patches @ turned.T).std()
    embedding.weight.copy_((0.7 / spread * turned).view_as(embedding.weight))
    embedding.bias.copy_(-0.7 / spread * turned @ patches.mean(0))


def _look_at_neighbours(vision: Any) -> None:
    """Lets each attention head begin by looking at one neighbour of every patch, as a convolution does.

    From random weights a vision transformer first has to find out which patches touch, and sees no shapes until it
    has. Here positions are sines and cosines in a subspace of the embedding; a shift by a patch is a rotation there,
    and a head's query is its key turned by that rotation. All of it is free to change in training. After ConViT
    (d'Ascoli et al. 2021) and mimetic initialisation (Trockman and Kolter 2023).
    """
    frequencies = torch.linspace(0.2, 2.5, HEAD_WIDTH // 4)
    subspace = torch.linalg.qr(torch.randn(WIDTH, HEAD_WIDTH))[0]
    places = [(float(row), float(column)) for row in range(SIDE) for column in range(SIDE)]
    waves = torch.stack([torch.cat([_waves(row, frequencies), _waves(column, frequencies)]) for row, column in places])
    vision.embeddings.position_embedding[0, 1:] = 2.0 * waves @ subspace.T
    beside, across = [(0, 1), (0, -1), (1, 0), (-1, 0)], [(1, 1), (-1, -1), (1, -1), (-1, 1)]
    for number, layer in enumerate(vision.encoder.layers):
        neighbours = across if number % 2 else beside
        queries, keys, _ = layer.self_attn.qkv.weight.chunk(3)
        for head, (down, right) in enumerate(neighbours):
            rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
            queries[rows] = torch.block_diag(_shift(down, frequencies), _shift(right, frequencies)) @ subspace.T
            keys[rows] = subspace.T


def _waves(place: float, frequencies: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.sin(place * frequencies), torch.cos(place * frequencies)])


def _shift(by: float, frequencies: torch.Tensor) -> torch.Tensor:
    """The matrix that turns the waves of a place into those of the place `by` further."""
    cosine, sine = torch.diag(torch.cos(by * frequencies)), torch.diag(torch.sin(by * frequencies))
    return torch.cat([torch.cat([cosine, sine], dim=1), torch.cat([-sine, cosine], dim=1)])
