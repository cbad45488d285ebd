"""Captions a second while training: the loop that public repositories have, and ours, idea by idea.

A BLIP-2 of middle size (or, with `--size full` and a GPU, of the size of blip2-flan-t5-xl) with random weights, random
captions as long as Flickr8k's, drawn photographs; all contestants take turns in one run, on the same cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from _contestants import (
    BF16,
    CHECKPOINTED,
    DECODER_ONLY,
    FP32,
    NAIVE,
    NAIVE_BF16,
    OURS,
    OURS_BF16,
    Contestant,
    Packed,
    contestants,
)
from _machine import MatrixProducts, PeakMemory, flops, use_cores, wait
from _outcome import interleaved, parser, ratio, tell
from _subject import CAPTIONS_PER_IMAGE, Subject
from captioncrafter.model.cut import deepest_cut
from captioncrafter.model.hardware import arithmetic_for, device_for

IMAGES = 64
CACHED_IMAGES = 32
EPOCHS = 3
FLICKR8K = 6000

# Features are stored in float16. In bfloat16, another order of sums rounds otherwise (as preflight allows).
LOSS_TOLERANCE = {FP32: 2e-3, BF16: 3e-2}
GRADIENT_TOLERANCE = 2e-2

MEASURED_MEMORY = (NAIVE, NAIVE_BF16, OURS, OURS_BF16, DECODER_ONLY, CHECKPOINTED)
PRECISIONS = {"fp32": FP32, "bf16": BF16}
MATRICES = "one large matrix product, {}"
CACHE = "building the cache, {}, an image"


def main() -> None:
    """Checks that contestants agree, times them in turns, prints the ratios; or measures the memory of one."""
    options = _options()
    device = device_for(options.device)
    use_cores(options.threads)
    if options.memory_of:
        print(json.dumps(_peak_memory(options.memory_of, options.size, device)))
        return
    bf16 = arithmetic_for("auto", device).dtype is BF16
    memory = _memory_of_each(options, bf16=bf16, device=device) if options.memory else {}
    subject = Subject.drawn(options.size, IMAGES, device)
    made = {name: make() for name, make in contestants(subject, bf16=bf16).items()}
    _refuse_disagreement(made)
    counted = {name: flops(one.run) / one.captions_per_run for name, one in made.items()}
    matrices = {words: MatrixProducts(dtype, device) for words, dtype in PRECISIONS.items() if bf16 or dtype is FP32}
    seconds = _timed(subject, made, matrices, options.rounds)
    rates = {words: one.flops / min(seconds[MATRICES.format(words)]) for words, one in matrices.items()}
    columns = _columns(made, seconds, counted, memory, rates, _step(subject))
    baseline = (
        "one image-caption pair a sample, decoded and run through the whole stock model in every step, labels padded "
        f"to 32, fp32; seconds a step of {_step(subject)} captions; {options.size} size, {options.threads} thread(s), "
        f"{device}; a large matrix product "
        + ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {words}" for words, rate in rates.items())
    )
    tell("training", baseline, _ratios(seconds, _step(subject)), seconds, as_json=options.json, columns=columns)


def _options() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--size", choices=("mid", "full"), default="mid", help="full needs a GPU")
    options.add_argument("--threads", type=int, default=1, help="threads, and cores, that all contestants have")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda")
    options.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="peak memory, each in its own process"
    )
    options.add_argument("--memory-of", metavar="CONTESTANT", help="print the peak memory of one contestant, in MiB")
    return options.parse_args()


def _step(subject: Subject) -> int:
    return subject.size.images_per_step * CAPTIONS_PER_IMAGE


def _peak_memory(name: str, size: str, device: torch.device) -> float:
    """MiB at the peak of two steps, the model and its adapter included, the imported libraries not."""
    import peft  # noqa: F401 # imported before memory counts
    from transformers import Blip2ForConditionalGeneration  # noqa: F401

    peak = PeakMemory(device)
    subject = Subject.drawn(size, 8 * CAPTIONS_PER_IMAGE, device)
    contestant = contestants(subject, bf16=True)[name]()
    if isinstance(contestant, Packed):
        contestant.steps_per_run = 1
    peak.restart()
    for _ in range(2):
        contestant.run()
    wait(device)
    return peak.mib()


def _memory_of_each(options: argparse.Namespace, *, bf16: bool, device: torch.device) -> dict[str, float]:
    """The peak memory of the main contestants, each measured in a process of its own."""
    # Freed tensors of a MiB or more go back to the system at once, so that the peak is not one of long before.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    command = [sys.executable, __file__, "--size", options.size, "--threads", str(options.threads)]
    found = {}
    for name in MEASURED_MEMORY:
        if ("bf16" in name and not bf16) or (name == CHECKPOINTED and device.type != "cuda"):
            continue
        asked = [*command, "--device", str(device), "--memory-of", name]
        done = subprocess.run(asked, env=environment, stdout=subprocess.PIPE, check=True)
        found[name] = float(json.loads(done.stdout))
    return found


def _refuse_disagreement(made: Mapping[str, Contestant]) -> None:
    """Ends the benchmark unless all contestants have the same loss on the same captions, and ours the same gradient."""
    ours = made[OURS]
    assert isinstance(ours, Packed)
    images = ours.first_images()
    for one in made.values():
        one.tuned.eval()
    with torch.no_grad():
        losses = {name: float(one.loss(images)) for name, one in made.items()}
    for name, loss in losses.items():
        tolerance = LOSS_TOLERANCE[BF16 if "bf16" in name else FP32]
        if not abs(loss - losses[NAIVE]) <= tolerance * losses[NAIVE]:
            raise SystemExit(f"{name}: a loss of {loss:.5f}, where {NAIVE} has {losses[NAIVE]:.5f}")
    naive, packed = (_gradient(made[name], images) for name in (NAIVE, OURS))
    difference = float((packed - naive).norm() / naive.norm())
    if not difference <= GRADIENT_TOLERANCE:
        raise SystemExit(f"{OURS}: its gradient is {difference:.3f} of its norm away from that of {NAIVE}")
    for one in made.values():
        one.restart()
    told = ", ".join(f"{loss:.4f}" for loss in losses.values())
    print(f"losses of all contestants: {told}; gradients differ by {difference:.1e}", file=sys.stderr)


def _gradient(contestant: Contestant, images: Sequence[int]) -> torch.Tensor:
    weights = [weight for weight in contestant.tuned.parameters() if weight.requires_grad]
    return torch.cat([one.flatten() for one in torch.autograd.grad(contestant.loss(images), weights)])


def _timed(
    subject: Subject, made: Mapping[str, Contestant], matrices: Mapping[str, MatrixProducts], rounds: int
) -> dict[str, list[float]]:
    """Seconds a step of every contestant, an image of building the cache, a matrix product."""
    step = _step(subject)
    runs = {name: (one.run, step / one.captions_per_run) for name, one in made.items()}
    for name, words in zip((NAIVE, NAIVE_BF16), PRECISIONS, strict=True):
        if name in made:
            runs[CACHE.format(words)] = (partial(_build_cache, subject, made[name]), 1 / CACHED_IMAGES)
    runs |= {MATRICES.format(words): (one.run, 1 / one.times) for words, one in matrices.items()}
    waiting = {name: _waiting(run, subject.device) for name, (run, _) in runs.items()}
    return {name: [one * runs[name][1] for one in times] for name, times in interleaved(waiting, rounds).items()}


def _waiting(run: Callable[[], object], device: torch.device) -> Callable[[], None]:
    def waited() -> None:
        run()
        wait(device)

    return waited


def _build_cache(subject: Subject, naive: Contestant) -> None:
    """Decodes images, runs them up to the default preset's cut, stores what comes out."""
    model = naive.tuned.get_base_model()
    tuned_layers = [name for name, _ in model.named_modules() if name.startswith("language_model.")]
    naive.tuned.eval()
    subject.cached(model, deepest_cut(model.config, tuned_layers), range(CACHED_IMAGES))
    naive.restart()


def _ratios(seconds: Mapping[str, Sequence[float]], step: int) -> dict[str, float]:
    """How many times faster than the naive loop in fp32; what runs in bf16, where it is arithmetic of the machine."""
    named = {
        "features_cached": "+ features cached",
        "padding_trimmed": "+ padding trimmed",
        "encoder_once": "+ encoder once an image",
        "cached_packed_fp32": OURS,
        "cached_packed_bf16": OURS_BF16,
        "decoder_only_bf16": DECODER_ONLY,
        "naive_bf16": NAIVE_BF16,
        "checkpointed_bf16": CHECKPOINTED,
    }
    ratios = {name: ratio(seconds, NAIVE, contestant) for name, contestant in named.items() if contestant in seconds}
    if OURS_BF16 in seconds:
        passes = EPOCHS * CAPTIONS_PER_IMAGE / step
        naive, ours = (passes * statistics.median(seconds[name]) for name in (NAIVE, OURS_BF16))
        cache = statistics.median(seconds[CACHE.format("bf16")])
        ratios["three_epochs_with_cache_bf16"] = naive / (ours + cache)
    return ratios


def _columns(
    made: Mapping[str, Contestant],
    seconds: Mapping[str, Sequence[float]],
    counted: Mapping[str, float],
    memory: Mapping[str, float],
    rates: Mapping[str, float],
    step: int,
) -> dict[str, dict[str, float]]:
    """What else a row says: of FLOPs, those that the step needs, none that checkpointing repeats."""
    columns: dict[str, dict[str, float]] = {}
    for name in made:
        speed = step / statistics.median(seconds[name])
        needed = counted[OURS_BF16 if name == CHECKPOINTED else name]
        rate = rates["bf16" if "bf16" in name else "fp32"]
        columns[name] = {
            "captions_per_s": speed,
            "gflop_per_caption": needed / 1e9,
            "utilisation": needed * speed / rate,
            "flickr8k_epoch_s": FLICKR8K * CAPTIONS_PER_IMAGE / speed,
        }
        if name in memory:
            columns[name]["peak_memory_mib"] = memory[name]
    return columns


if __name__ == "__main__":
    main()
