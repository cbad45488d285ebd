"""Builds the embedded miniature: a BLIP-2 of the stock classes, trained from scratch on drawn scenes.

Two stages, as in the BLIP-2 paper: first the vision half learns to represent (which thing covers this patch, what
lies in this part of the picture), then the language half learns to caption. All is decided by the options and the
seed. On two CPU cores it takes some forty minutes; a stopped training goes on from its last checkpoint.
docs/miniature.md tells how this was chosen and what it scores.

    python scripts/build_miniature.py --tokenizer google/flan-t5-xl --out src/captioncrafter/assets/miniature
"""

import argparse
from pathlib import Path

import torch
from transformers import Blip2ForConditionalGeneration

from captioncrafter.model.stock import Blip2, Processor
from miniature_model import fresh_model, fresh_processor
from miniature_training import Options, learn_to_caption, learn_to_represent


def main() -> None:
    """Tokenizer, model, the two stages, saving."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    options = Options(
        reading_steps=arguments.reading_steps,
        reading_rate=arguments.reading_rate,
        captioning_steps=arguments.captioning_steps,
        captioning_rate=arguments.captioning_rate,
        seed=arguments.seed,
    )
    processor = fresh_processor(arguments.tokenizer)
    model = fresh_model(processor, seed=options.seed)
    learn_to_represent(model, processor, options, arguments.work / "reading.pt")
    learn_to_caption(model, processor, options, arguments.work / "captioning.pt")
    _save(model, processor, arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="flan-T5's tokenizer: a hub name or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished checkpoint")
    parser.add_argument("--work", type=Path, default=Path("build/miniature"), help="folder for unfinished training")
    parser.add_argument("--reading-steps", type=int, default=1500, help="steps of the first stage, 32 collages each")
    parser.add_argument("--reading-rate", type=float, default=8e-4, help="peak learning rate of the first stage")
    parser.add_argument("--captioning-steps", type=int, default=2000, help="steps of the second, 16 scenes each")
    parser.add_argument("--captioning-rate", type=float, default=5e-4, help="peak learning rate of the second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _save(model: Blip2, processor: Processor, out: Path) -> None:
    """Stock layout in bfloat16; float32 would be twice the size, and float16 is more than T5 survives."""
    half = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    saved: Blip2 = Blip2ForConditionalGeneration(model.config)
    saved.to(torch.bfloat16)
    head = half["language_model.lm_head.weight"]
    # transformers ties a fresh T5's head to its embedding, whatever the configuration says; this one has its own.
    saved.language_model.lm_head.weight = torch.nn.Parameter(head.clone())
    saved.load_state_dict(half)
    saved.save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    main()
