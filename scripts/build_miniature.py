"""Builds the embedded miniature: a BLIP-2 of the stock classes, trained from scratch on drawn scenes.

Everything is decided by the options below and the seed. On two CPU cores the default takes about 40 minutes; it can
be stopped and goes on from its last checkpoint. docs/miniature.md tells how it was chosen and what it scores.

    python scripts/build_miniature.py --tokenizer google/flan-t5-xl --out src/captioncrafter/assets/miniature
"""

import argparse
import json
import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, normalizers
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessorPil,
    PreTrainedTokenizerFast,
)

from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.picture import draw
from captioncrafter.data.scenes.world import BACKGROUNDS, COLOURS, SHAPES, Scene, draw_scene
from captioncrafter.features.extract import pixel_values
from captioncrafter.generation.decode import decode
from captioncrafter.model.captioning import IGNORE, Prompt, caption_logits, encode_prompt, summed_loss
from captioncrafter.recipe import Decoding, Model
from captioncrafter.training.packing import encode_captions, pack

IMAGE_SIZE = 128
QUERIES = 16
WIDTH = 256
WORD_PIECES = 6000
SPECIAL = ("<pad>", "</s>", "<unk>")
PROMPT = Model().prompt


@dataclass(frozen=True)
class Options:
    """One training; what it makes is a function of these."""

    steps: int
    images_per_step: int
    learning_rate: float
    seed: int
    bf16: bool


def main() -> None:
    """Tokenizer, configuration, training, saving: each one a function below."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    options = Options(
        arguments.steps, arguments.images_per_step, arguments.learning_rate, arguments.seed, arguments.bf16
    )
    processor = Blip2Processor(_image_processor(), _tokenizer(arguments.tokenizer), num_query_tokens=QUERIES)
    model = _fresh_model(processor, options.seed)
    if not (arguments.out / "config.json").exists():
        _save(model, processor, arguments.out)
    _train(model, processor, options, arguments.checkpoint, arguments.out)
    _save(model, processor, arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="flan-T5's tokenizer: a hub name or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--checkpoint", type=Path, default=Path("miniature-training.pt"), help="where training is kept")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images-per-step", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    return parser.parse_args()


def _image_processor() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def _tokenizer(source: str) -> PreTrainedTokenizerFast:
    """flan-T5's unigram tokenizer with its likeliest lower-case English pieces and single characters only.

    A unigram vocabulary can be cut: words whose piece is gone are spelled with smaller ones.
    """
    full = AutoTokenizer.from_pretrained(source)
    stated = json.loads(full.backend_tokenizer.to_str())
    likeliest = sorted(stated["model"]["vocab"][len(SPECIAL) :], key=lambda piece: -piece[1])
    words = [piece for piece in likeliest if re.fullmatch(r"▁?[a-z]{2,}|▁[a-z0-9]", piece[0])][:WORD_PIECES]
    characters = [piece for piece in likeliest if len(piece[0]) == 1]
    needed = {f"▁{word}" for word in (*COLOURS, *SHAPES, *" ".join(BACKGROUNDS).split())}
    scene_words = [piece for piece in likeliest if piece[0] in needed and piece not in words]
    stated["model"]["vocab"] = [[piece, 0.0] for piece in SPECIAL] + characters + words + scene_words
    stated["added_tokens"] = [token for token in stated["added_tokens"] if token["content"] in SPECIAL]
    small = Tokenizer.from_str(json.dumps(stated))
    small.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(r"\s+", " "), normalizers.Strip()])
    return PreTrainedTokenizerFast(
        tokenizer_object=small, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def _fresh_model(processor: Blip2Processor, seed: int) -> Blip2ForConditionalGeneration:
    """Random weights at scales that train: transformers' defaults expect pre-trained ones to replace them."""
    tokenizer = processor.tokenizer
    rows = 64 * math.ceil(len(tokenizer) / 64)
    config = Blip2Config(
        vision_config={
            "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4,
            "image_size": IMAGE_SIZE, "patch_size": 16, "initializer_range": 0.02,
        },
        qformer_config={
            "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4,
            "encoder_hidden_size": WIDTH, "vocab_size": rows,
        },
        text_config={
            "model_type": "t5", "vocab_size": rows, "d_model": WIDTH, "d_kv": 64, "d_ff": 2 * WIDTH, "num_layers": 3,
            "num_decoder_layers": 3, "num_heads": 4, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "tie_word_embeddings": False,
        },
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config)
    language = model.language_model
    with torch.no_grad():
        model.query_tokens.normal_(std=0.02)
        language.shared.weight.normal_(std=0.04)
        language.lm_head.weight = torch.nn.Parameter(torch.randn(rows, WIDTH) * 0.04)
    return model


def _train(
    model: Blip2ForConditionalGeneration, processor: Blip2Processor, options: Options, checkpoint: Path, out: Path
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    first = _restore(model, optimizer, options, checkpoint)
    prompt = encode_prompt(processor, PROMPT)
    model.eval()  # no dropout: every scene is new
    started, window = time.monotonic(), []
    for step, (pixels, captions) in enumerate(_batches(processor, options, first), start=first):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _rate(step, options.steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            seen = model.get_image_features(pixels).qformer_outputs.last_hidden_state
            logits = caption_logits(model, seen, prompt, captions)
        loss = summed_loss(logits, captions.labels) / (captions.labels != IGNORE).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        window.append(loss.item())
        if (step + 1) % 50 == 0:
            minutes = (time.monotonic() - started) / 60
            print(
                f"step {step + 1}/{options.steps}  loss {sum(window) / len(window):.3f}  {minutes:.1f} min", flush=True
            )
            window.clear()
        if (step + 1) % 250 == 0 or step + 1 == options.steps:
            torch.save(
                {
                    "options": asdict(options),
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
                checkpoint,
            )
            right, blind = _look(model, processor, prompt, 0), _look(model, processor, prompt, 1)
            print(f"  exact captions of held-out scenes: {right:.0%}; of another scene: {blind:.0%}", flush=True)
            _save(model, processor, out)


def _restore(model: torch.nn.Module, optimizer: torch.optim.Optimizer, options: Options, checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    if state["options"] != asdict(options):
        raise SystemExit(f"{checkpoint} is of a training with {state['options']}: remove it, or give the same options.")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _batches(processor: Blip2Processor, options: Options, first: int) -> Iterator[tuple[torch.Tensor, object]]:
    """New scenes every step, drawn one step ahead in a thread."""

    def batch(step: int) -> tuple[torch.Tensor, object]:
        size = options.images_per_step
        scenes = [draw_scene(options.seed, "train", step * size + index) for index in range(size)]
        rows = [encode_captions(processor.tokenizer, wording.terse(scene), max_tokens=32)[0] for scene in scenes]
        return pixel_values(processor, _pictures(scenes)), pack(rows, start_id=0, pad_id=0)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch, first)
        for step in range(first, options.steps):
            ready = ahead.result()
            if step + 1 < options.steps:
                ahead = pool.submit(batch, step + 1)
            yield ready


def _pictures(scenes: list[Scene]) -> list[Image.Image]:
    return [draw(scene, IMAGE_SIZE) for scene in scenes]


def _rate(step: int, steps: int) -> float:
    warmup = min(200, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@torch.no_grad()
def _look(model: Blip2ForConditionalGeneration, processor: Blip2Processor, prompt: Prompt, shift: int) -> float:
    """Share of 100 validation scenes whose greedy caption is, word for word, a reference of the scene `shift` further."""
    scenes = [draw_scene(0, "validation", index) for index in range(100)]
    seen = model.get_image_features(pixel_values(processor, _pictures(scenes))).qformer_outputs.last_hidden_state
    captions = decode(model, processor, seen, prompt, Decoding(num_beams=1, max_new_tokens=24))
    references = [wording.terse(scenes[(index + shift) % len(scenes)]) for index in range(len(scenes))]
    return sum(caption in found for caption, found in zip(captions, references, strict=True)) / len(scenes)


def _save(model: Blip2ForConditionalGeneration, processor: Blip2Processor, out: Path) -> None:
    """Stock layout in bfloat16; float32 would be twice the size, and float16 is more than T5 survives."""
    half = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    saved = Blip2ForConditionalGeneration(model.config).to(torch.bfloat16)
    saved.language_model.lm_head.weight = torch.nn.Parameter(half["language_model.lm_head.weight"].clone())
    saved.load_state_dict(half)
    saved.save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    main()
