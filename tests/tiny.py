"""Tiny real checkpoints and datasets, written to disk as the real ones are."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from captioncrafter.recipe import Recipe

TEXT = (
    "a an the of in on at with and is are red green blue yellow black white small large big dog cat man woman girl "
    "boy ball park street grass water running sitting standing playing photo question answer what colour two three"
)
WORDS = TEXT.split()

_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.1,
}
_QFORMER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "encoder_hidden_size": 32,
    "vocab_size": 64,
}


def write_tiny_checkpoint(
    folder: Path, *, seed: int = 0, tied: bool = False, text_width: int = 32, vision_width: int = 32
) -> Path:
    """A random BLIP-2 flan-T5 in stock layout: 32 px images, 3 queries, width 32, about 100 k parameters."""
    from transformers import Blip2Config

    torch.manual_seed(seed)
    processor = tiny_processor()
    config = Blip2Config(
        vision_config=_VISION | {"hidden_size": vision_width, "intermediate_size": 2 * vision_width},
        qformer_config=_QFORMER | {"encoder_hidden_size": vision_width},
        text_config={
            "model_type": "t5",
            "vocab_size": 96,
            "d_model": text_width,
            "d_kv": text_width // 4,
            "d_ff": 2 * text_width,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 1,
            "tie_word_embeddings": tied,
        },
        num_query_tokens=3,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _write(folder, config, processor, head=None if tied else (96, text_width))


def _write(folder: Path, config: Any, processor: Any, *, head: tuple[int, int] | None = None) -> Path:
    """Writes a random model of this configuration; with a `head` of that shape apart from the embedding."""
    from transformers import Blip2ForConditionalGeneration

    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_(std=0.5)
        model.language_projection.weight.normal_(std=0.5)
        if head is not None:
            model.language_model.lm_head.weight = torch.nn.Parameter(torch.randn(*head) * 0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_processor():
    """A Blip2Processor over a word-level tokenizer with T5's special ids."""
    return _word_level(["<pad>", "</s>", "<unk>"], template="$A </s>", special=[("</s>", 1)], bos=None)


def tiny_opt_processor():
    """The same with OPT's habit: `<s>` in front, nothing behind; `</s>` is what its captions end with."""
    return _word_level(["<pad>", "</s>", "<s>", "<unk>"], template="<s> $A", special=[("<s>", 2)], bos="<s>")


def _word_level(first: list[str], *, template: str, special: list[tuple[str, int]], bos: str | None):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import Blip2Processor, BlipImageProcessorPil, PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate([*first, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token=bos,
        model_max_length=512,
    )
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    return Blip2Processor(images, fast, num_query_tokens=3)


def picture(number: int, size: int = 40) -> bytes:
    """PNG bytes of a picture of its own colour and stripe for each number."""
    image = Image.new("RGB", (size, size), ((37 * number) % 256, (91 * number + 50) % 256, (151 * number + 99) % 256))
    image.paste((255, 255, 255), (number % 30, 0, number % 30 + 6, size))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def without_key(path: Path, *keys: str) -> None:
    """Rewrites the JSON file at `path` without some of its keys."""
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in keys}))


def write_tiny_dataset(folder: Path, *, train: int = 6, validation: int = 4, test: int = 0) -> Path:
    """A dataset folder as `prepare` writes it: small pictures, each with five captions in the tiny vocabulary."""
    import datasets

    from captioncrafter.data.dataset import FEATURES

    splits, number = {}, 0
    for name, count in (("train", train), ("validation", validation), ("test", test)):
        numbers = range(number, number + count)
        number += count
        if count:
            columns = {
                "image": [{"bytes": picture(one), "path": None} for one in numbers],
                "image_id": [f"picture-{one}.png" for one in numbers],
                "captions": [captions_of_picture(one) for one in numbers],
            }
            splits[name] = datasets.Dataset.from_dict(columns, features=FEATURES)
    datasets.disable_progress_bars()
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def captions_of_picture(number: int) -> list[str]:
    """Five captions of picture number n."""
    animal, colour = ("dog", "cat", "man", "woman")[number % 4], ("red", "green", "blue")[number % 3]
    return [
        f"a {colour} {animal} in the park",
        f"the {animal} is {colour}",
        f"a {animal} standing on {colour} grass",
        f"two {colour} dogs playing with a {animal}",
        f"{colour} {animal}",
    ]


def tiny_recipe(checkpoint: Path, dataset: Path, **changes: dict[str, object]) -> Recipe:
    """A recipe that tunes the tiny checkpoint in a second; `changes` are sections, for example `training={...}`."""
    values: dict[str, dict[str, object]] = {
        "model": {"base": str(checkpoint), "precision": "fp32", "device": "cpu"},
        "data": {"path": str(dataset)},
        "training": {"epochs": 2.0, "images_per_step": 3, "images_per_batch": 3, "learning_rate": 1e-2},
        "decoding": {"num_beams": 1, "max_new_tokens": 8, "images_per_batch": 2},
        "evaluation": {"resamples": 100},
    }
    for section, options in changes.items():
        values[section] = values.get(section, {}) | options
    return Recipe.model_validate(values)


def load_tiny(folder: Path, *, dtype: torch.dtype = torch.float32):
    """The checkpoint in `folder` with its processor and model, on the CPU."""
    from captioncrafter.model import checkpoint
    from captioncrafter.model.hardware import Arithmetic
    from captioncrafter.model.loading import load_model

    found = checkpoint.find(str(folder))
    model = load_model(found, arithmetic=Arithmetic(dtype), device=torch.device("cpu"))
    return found, checkpoint.load_processor(found), model


def changed_copy(checkpoint: Path, folder: Path, file: str, **changes: object) -> Path:
    """A copy of `checkpoint` in which the JSON `file` has other values; None takes a key out."""
    import shutil

    shutil.copytree(checkpoint, folder)
    values = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


def rewrite_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Lets `change` work on the tensors of a safetensors file, then writes them back."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def flip_byte(file: Path, at: int) -> None:
    """Turns the lowest bit of one byte of `file` over."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def write_tiny_opt_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """A random BLIP-2 with a decoder-only language model (OPT), in stock layout; otherwise like the flan-T5 one."""
    from transformers import Blip2Config

    torch.manual_seed(seed)
    processor = tiny_opt_processor()
    config = Blip2Config(
        vision_config=_VISION,
        qformer_config=_QFORMER,
        text_config={
            "model_type": "opt",
            "vocab_size": 96,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "init_std": 0.2,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 1,
        },
        num_query_tokens=3,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _write(folder, config, processor)
