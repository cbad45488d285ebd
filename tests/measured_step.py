"""Real phases of a training in a process of their own: prints the bytes by which each made the process grow.

python measured_step.py CHECKPOINT PHASE PRESET IMAGES RECOMPUTES
"""

import ctypes
import gc
import sys
import warnings
from pathlib import Path

import torch

from captioncrafter import recipe
from captioncrafter.model import checkpoint, lora
from captioncrafter.model.captioning import caption_loss
from captioncrafter.model.cut import Cut, deepest_cut, parts_after, parts_before
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.loading import load_model
from captioncrafter.model.prefix import context_of, features_at
from captioncrafter.model.prompts import Prompts
from captioncrafter.stages.phases import feature_shape
from captioncrafter.training.mode import training_mode
from captioncrafter.training.optimizer import adamw
from captioncrafter.training.packing import pack

CAPTIONS, TOKENS, PROMPT_TOKENS = 5, 15, 4
FP32 = Arithmetic(torch.float32)
CPU = torch.device("cpu")


def main(folder: Path, phase: str, preset: str, images: int, recomputes: bool) -> None:
    """Warms the libraries up on the smallest of models, then measures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    run_phase(folder / "small", phase, preset, 1, recomputes)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    run_phase(folder / "mid", phase, preset, images, recomputes)
    sys.stdout.write(f"{memory('VmHWM') - before}\n")


def memory(row: str) -> int:
    """Bytes of a row of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(row))


def run_phase(folder: Path, phase: str, preset: str, images: int, recomputes: bool) -> None:
    """Two batches forward, and in training backward, with an update between them."""
    found = checkpoint.find(str(folder))
    config = checkpoint.load_config(found)
    adapter = recipe.Lora(preset=preset)
    cut = deepest_cut(config, lora.planned_layers(config, adapter))
    prompts = Prompts(
        torch.ones(images, PROMPT_TOKENS, dtype=torch.long),
        torch.ones(images, PROMPT_TOKENS, dtype=torch.bool),
        config.num_query_tokens,
    )
    if phase == "features":
        parts = {*parts_before(Cut.QFORMER), *parts_before(cut), "language_projection"}
        model = load_model(found, arithmetic=FP32, device=CPU, parts=parts)
        for _ in range(2):
            features_at(model, torch.randn(images, *feature_shape(config, Cut.IMAGES, PROMPT_TOKENS)), cut, prompts)
        return
    model = load_model(found, arithmetic=FP32, device=CPU, parts=parts_after(config, cut))
    training = recipe.Training(gradient_checkpointing=recomputes)
    tuned = lora.attach(model, adapter, seed=0)
    training_mode(tuned, training)
    optimizer = adamw(lora.trainable(tuned).values(), training)
    captions = pack([[[5] * (TOKENS - 1) + [1]] * CAPTIONS] * images, config, prompts)
    for _ in range(2):
        optimizer.zero_grad()
        features = torch.randn(images, *feature_shape(config, cut, PROMPT_TOKENS))
        caption_loss(model, context_of(model, features, cut, prompts), captions).backward()
        optimizer.step()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "True")
