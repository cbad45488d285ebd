"""What the training benchmarks train: random models of two sizes, drawn photographs, random captions.

Nothing is downloaded and nothing is learned; shapes, lengths and file sizes are those of the real thing.
"""

import gc
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioncrafter.data.images import decode_image
from captioncrafter.features.extract import Wanted, extract
from captioncrafter.features.key import FeatureKey
from captioncrafter.features.store import FeatureStore
from captioncrafter.model import lora
from captioncrafter.model.cut import Cut, deepest_cut, parts_after, parts_before
from captioncrafter.model.prompts import Prompt
from captioncrafter.model.stock import Blip2, Tuned
from captioncrafter.recipe import Recipe
from captioncrafter.training.batches import TrainingImages
from captioncrafter.training.mode import training_mode

CAPTIONS_PER_IMAGE = 5
_QUERIES = 32
_PROMPT_WORDS = (3, 9, 1202, 13, 1)  # "a photo of" as T5 reads it, </s> last


@dataclass(frozen=True)
class Size:
    """The shape of a BLIP-2 flan-T5, and how many images stand in a step."""

    vision: dict[str, int]
    qformer: dict[str, int]
    text: dict[str, int]
    images_per_step: int


SIZES = {
    "mid": Size(
        vision={"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6},
        qformer={"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
        text={"vocab_size": 8000, "d_model": 512, "d_ff": 1280, "num_layers": 6, "num_heads": 8},
        images_per_step=4,
    ),
    "full": Size(
        vision={"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16},
        qformer={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        text={"vocab_size": 32128, "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
        images_per_step=8,
    ),
}


@dataclass(frozen=True)
class Half:
    """What is left in memory once features are stored: the part behind the cut, with its adapter in training mode."""

    tuned: Tuned
    cut: Cut
    store: FeatureStore
    options: Recipe


@dataclass
class Subject:
    """A model's size, the images and captions it is trained on, and the trained halves that were made of it so far."""

    size: Size
    device: torch.device
    jpegs: Sequence[bytes]
    captions: Sequence[Sequence[list[int]]]
    prompt: Prompt
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)
    _halves: dict[Any, Half] = field(default_factory=dict)

    @classmethod
    def drawn(cls, size: str, images: int, device: torch.device) -> "Subject":
        """`images` drawn photographs, each with five captions of random words."""
        draw = np.random.default_rng(0)
        shape = SIZES[size]
        vocabulary = shape.text["vocab_size"]
        captions = [[_caption(draw, vocabulary) for _ in range(CAPTIONS_PER_IMAGE)] for _ in range(images)]
        ids = torch.tensor([vocabulary - 1] * _QUERIES + list(_PROMPT_WORDS))
        return cls(shape, device, [photograph(draw) for _ in range(images)], captions, Prompt("", ids, _QUERIES))

    def close(self) -> None:
        """Deletes what was stored."""
        self._folder.cleanup()

    @property
    def images(self) -> TrainingImages:
        """The images as training reads them."""
        names = [str(number) for number in range(len(self.jpegs))]
        return TrainingImages(names, self.captions, [self.prompt] * len(names))

    @cached_property
    def processor(self) -> Any:
        """The image half of BLIP-2's stock processor."""
        from transformers import BlipImageProcessorPil

        return SimpleNamespace(image_processor=BlipImageProcessorPil(size={"height": 224, "width": 224}))

    def options(self, preset: str, *, checkpointing: bool = False) -> Recipe:
        """The recipe's defaults, with a step that is computed at once."""
        at_once = self.size.images_per_step
        training = {"images_per_step": at_once, "images_per_batch": at_once, "gradient_checkpointing": checkpointing}
        return Recipe.model_validate({"lora": {"preset": preset}, "training": training})

    def decoder(self, image: int) -> Callable[[], Image.Image]:
        """A call that decodes an image, as the project does."""
        return partial(decode_image, self.jpegs[image])

    def whole(self, dtype: torch.dtype) -> Tuned:
        """The whole model with an adapter on its language model, in training mode."""
        options = self.options("efficient")
        tuned = lora.attach(_random_model(self.size, dtype, self.device), options.lora, seed=options.seed)
        training_mode(tuned, options.training)
        return tuned

    def half(self, dtype: torch.dtype, preset: str = "efficient", *, checkpointing: bool = False) -> Half:
        """The part behind the preset's cut, all features being stored; made once."""
        key = (dtype, preset, checkpointing)
        if key not in self._halves:
            self._halves[key] = self._made_half(dtype, self.options(preset, checkpointing=checkpointing))
        return self._halves[key]

    def _made_half(self, dtype: torch.dtype, options: Recipe) -> Half:
        model = _random_model(self.size, dtype, self.device)
        cut = deepest_cut(model.config, lora.target_layers(model, options.lora))
        store = self.cached(model, cut, range(len(self.jpegs)))
        for part in set(parts_before(cut)) - set(parts_after(model.config, cut)):
            _leave_memory(model, part)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        tuned = lora.attach(model, options.lora, seed=options.seed)
        training_mode(tuned, options.training)
        return Half(tuned, cut, store, options)

    def cached(self, model: Blip2, cut: Cut, images: Sequence[int]) -> FeatureStore:
        """A new store with the features of `images`, by number."""
        store = FeatureStore.open(Path(tempfile.mkdtemp(dir=self._folder.name)), FeatureKey({}))
        extract(
            model,
            self.processor,
            cut,
            {str(image): Wanted(self.decoder(image), self.prompt) for image in images},
            store,
            device=self.device,
            features=self.options("efficient").features,
        )
        return store


@dataclass(frozen=True)
class Stored:
    """Training's view of a store in which image n is called n."""

    store: FeatureStore

    def __call__(self, images: Sequence[int], *, step: int) -> Tensor:
        """The features of `images`, whatever the step."""
        del step
        return self.store.rows([str(image) for image in images])


def _random_model(size: Size, dtype: torch.dtype, device: torch.device) -> Blip2:
    """The same weights at each call and in each dtype: they are drawn in bfloat16, on the device."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    text = size.text | {"d_kv": 64, "num_decoder_layers": size.text["num_layers"]}
    words = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = Blip2Config(
        # With the usual 0.02, random layers make nearly the same features of every image.
        vision_config={"image_size": 224, "patch_size": 14, "initializer_range": 0.1} | size.vision,
        qformer_config={"encoder_hidden_size": size.vision["hidden_size"], "initializer_range": 0.1} | size.qformer,
        text_config=text | words | special | {"tie_word_embeddings": False},
        num_query_tokens=_QUERIES,
        image_token_index=text["vocab_size"] - 1,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = Blip2ForConditionalGeneration(config)
            # The stock model starts with queries of zero, and with a head whose logits saturate the softmax.
            model.query_tokens.data.normal_()
            head = torch.empty(text["vocab_size"], text["d_model"]).normal_(std=text["d_model"] ** -0.5)
            model.language_model.lm_head.weight = torch.nn.Parameter(head)
    finally:
        torch.set_default_dtype(torch.float32)
    model.requires_grad_(False).eval()
    return torch.nn.Module.to(model, dtype)


def _leave_memory(model: Blip2, part: str) -> None:
    if part == "query_tokens":
        model.query_tokens = torch.nn.Parameter(model.query_tokens.to("meta"), requires_grad=False)
    else:
        model.get_submodule(part).to("meta")


def _caption(draw: np.random.Generator, vocabulary: int) -> list[int]:
    """Random words; as many as a caption of Flickr8k has T5 tokens, `</s>` among them."""
    length = int(np.clip(round(draw.normal(13, 4)), 7, 25))
    return [*draw.integers(2, vocabulary - 1, size=length - 1).tolist(), 1]


def photograph(draw: np.random.Generator) -> bytes:
    """A JPEG of 500×375 with detail at every scale, which takes as long to decode as a photograph of Flickr8k."""
    picture = Image.new("RGB", (500, 375), (128, 128, 128))
    for cells, weight in ((4, 0.5), (16, 0.4), (64, 0.3), (250, 0.35)):
        noise = draw.integers(0, 256, size=(cells * 3 // 4, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize(picture.size, Image.Resampling.BICUBIC)
        picture = Image.blend(picture, layer, weight)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=91)
    return file.getvalue()
