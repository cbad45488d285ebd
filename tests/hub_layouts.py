"""BLIP-2 checkpoints as the hub has them and had them: published files, vocabulary and ids, little width."""

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from tiny import WORDS

Kind = Literal["t5", "opt"]

QUERIES = 3
INDEX = "model.safetensors.index.json"
VOCABULARY = {"t5": 32_100, "opt": 50_265}
"""Tokens that the tokenizers know; `<image>` comes next, and the embedding has some more rows."""

_T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "bos_token_id": 1,
    "classifier_dropout": 0.0,
    "d_ff": 48,
    "d_kv": 8,
    "d_model": 32,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 32_128,
}
_OPT = {
    "_name_or_path": "facebook/opt-2.7b",
    "activation_dropout": 0.0,
    "architectures": ["OPTForCausalLM"],
    "eos_token_id": 50_118,
    "ffn_dim": 64,
    "hidden_size": 32,
    "model_type": "opt",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "vocab_size": 50_304,
    "word_embed_proj_dim": 32,
}
_TEXT = {"t5": _T5, "opt": _OPT}


@dataclass(frozen=True)
class Layout:
    """What a copy says about the image; by default as the hub says it since the end of 2024."""

    image_token_index: bool = True
    num_query_tokens: bool = True
    image_token: Literal["added_tokens.json", "tokenizer.json", "nowhere"] = "added_tokens.json"
    processor_config: bool = True
    attn_autoset: bool = False
    shards: int = 2
    pixels: int = 32


CURRENT = Layout()
COCO = Layout(pixels=364)
OF_2023 = Layout(image_token_index=False, num_query_tokens=False, image_token="nowhere", processor_config=False)
OLD = {
    "of 2023": OF_2023,
    "of 2023, one file": Layout(False, False, "nowhere", processor_config=False, shards=1),
    "without image_token_index": Layout(image_token_index=False),
    "without num_query_tokens": Layout(num_query_tokens=False),
    "without an <image> token": Layout(image_token="nowhere"),
}
WHOLE = {
    "as published": CURRENT,
    "<image> in tokenizer.json": Layout(image_token="tokenizer.json"),
    "attention chosen by itself": Layout(attn_autoset=True),
}


def write_published(folder: Path, layout: Layout = CURRENT, kind: Kind = "t5") -> Path:
    """A checkpoint of this layout; of each kind they all have the same weights."""
    folder.mkdir(parents=True)
    _write_json(folder / "config.json", _config(layout, kind))
    _write_json(folder / "generation_config.json", _generation_config(kind))
    size = {"height": layout.pixels, "width": layout.pixels}
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR | {"size": size})
    if layout.processor_config:
        queries = {"num_query_tokens": QUERIES} if layout.num_query_tokens else {}
        _write_json(folder / "processor_config.json", queries | {"processor_class": "Blip2Processor"})
    _write_tokenizer(folder, layout, kind)
    _write_weights(folder, layout, kind)
    return folder


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))


def _config(layout: Layout, kind: Kind) -> dict[str, Any]:
    vision = {
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "model_type": "blip_2_vision_model",
        "num_channels": 3,
        "projection_dim": 512,
    }
    qformer = {"classifier_dropout": None, "model_type": "blip_2_qformer"}
    config = {
        "architectures": ["Blip2ForConditionalGeneration"],
        "image_text_hidden_size": 256,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "model_type": "blip-2",
        "num_query_tokens": QUERIES,
        "qformer_config": qformer | _QFORMER_WIDTHS,
        "text_config": dict(_TEXT[kind]),
        "torch_dtype": "float32",
        "transformers_version": "4.47.0.dev0",
        "use_decoder_only_language_model": kind == "opt",
        "vision_config": vision | _VISION_WIDTHS | _grid(layout.pixels),
    }
    if layout.image_token_index:
        config["image_token_index"] = VOCABULARY[kind]
    if layout.attn_autoset:
        for part in (config, config["text_config"], config["vision_config"], config["qformer_config"]):
            part["_attn_implementation_autoset"] = True
    return config


def _grid(pixels: int) -> dict[str, int]:
    """As published from 224 pixels on, which 14 divides."""
    return {"image_size": pixels, "patch_size": 14 if pixels % 14 == 0 else 8}


_VISION_WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
}
_QFORMER_WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "encoder_hidden_size": 32,
}
_PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "BlipImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "Blip2Processor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}


def _generation_config(kind: Kind) -> dict[str, Any]:
    ids = {
        "t5": {"bos_token_id": 1, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
        "opt": {"bos_token_id": 2, "eos_token_id": 50_118, "pad_token_id": 1},
    }
    return {"_from_model_config": True, **ids[kind], "transformers_version": "4.47.0.dev0"}


def _write_tokenizer(folder: Path, layout: Layout, kind: Kind) -> None:
    tokenizer = json.loads(_t5_tokenizer() if kind == "t5" else _opt_tokenizer())
    if layout.image_token == "tokenizer.json":
        tokenizer["added_tokens"].append(_special(VOCABULARY[kind], "<image>"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if layout.image_token == "added_tokens.json":
        _write_json(folder / "added_tokens.json", {"<image>": VOCABULARY[kind]})
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>" if kind == "t5" else "</s>"}
    if kind == "opt":
        named |= {"bos_token": "</s>"}
        own = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False}
    else:
        extra = [f"<extra_id_{number}>" for number in range(100)]
        own = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "additional_special_tokens": extra}
    _write_json(folder / "special_tokens_map.json", named)
    _write_json(folder / "tokenizer_config.json", named | own | {"model_max_length": 512})


def _special(number: int, content: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **plain, "special": True}


@cache
def _t5_tokenizer() -> str:
    """T5's 32,100 pieces, most of them made up: three special ones, words, and behind them the `<extra_id_…>`."""
    from transformers import T5Tokenizer

    extra = [f"<extra_id_{number}>" for number in reversed(range(100))]
    known = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS)]
    made_up = [f"▁madeup{number}" for number in range(VOCABULARY["t5"] - len(known) - len(extra))]
    pieces = [(piece, -float(at)) for at, piece in enumerate([*known, *made_up])]
    tokenizer = T5Tokenizer(vocab=[*pieces, *((piece, 0.0) for piece in extra)])
    return tokenizer.backend_tokenizer.to_str()


@cache
def _opt_tokenizer() -> str:
    """OPT's 50,265 tokens: byte-level pairs, `</s>` in front of a text, a line break (50118) behind a caption."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learned.train_from_iterator(
        [" " + " ".join(WORDS)], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(learned.to_str())["model"]
    tokens = [token for token in sorted(model["vocab"], key=model["vocab"].get) if token != "Ċ"]
    ids = {token: at for at, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *tokens])} | {"Ċ": 50_118}
    taken = set(ids.values())
    ids |= {f"madeupword{number}": number for number in range(VOCABULARY["opt"]) if number not in taken}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[tuple(pair) for pair in model["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    return tokenizer.to_str()


def _write_weights(folder: Path, layout: Layout, kind: Kind) -> None:
    """One file, or parts with their index, named as on the hub."""
    from safetensors.torch import save_file

    tensors, shards = _tensors(kind, layout.pixels), layout.shards
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    placed = {}
    for part in range(shards):
        file = f"model-{part + 1:05}-of-{shards:05}.safetensors"
        names = list(tensors)[part * len(tensors) // shards : (part + 1) * len(tensors) // shards]
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(names, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": placed})


@cache
def _tensors(kind: Kind, pixels: int) -> dict[str, torch.Tensor]:
    """A random model in float32 by the names it has on the hub; T5's head is its own, OPT's is the embedding."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(Blip2Config(**_config(Layout(pixels=pixels), kind)))
    tensors = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    tensors["query_tokens"].normal_(std=0.5)
    tensors["language_projection.weight"].normal_(std=0.5)
    if kind == "t5":
        tensors["language_model.lm_head.weight"] = torch.randn(32_128, 32) * 0.3
    else:
        tensors["language_model.model.decoder.embed_tokens.weight"].normal_(std=0.2)
    return tensors


def copy_of(folder: Path, to: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, to))
