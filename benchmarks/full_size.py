"""blip2-flan-t5-xl at its full size: features, packed steps, captions while validating, the adapter in stock hands.

Its published configuration with random weights, which are drawn in memory (7.9 GB in bfloat16; nothing is downloaded,
and no weights lie on a disk). `captioncrafter train` and `export` go their usual road on them; then the adapter is
loaded into the stock model by stock PEFT, and the logits of both are held against each other. Needs Linux.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from _contestants import PairLoop
from _figures import NAIVE, PROVEN, RECOMPUTING, Done, Machine, Way, naive_row, ratios_of, rows_of
from _machine import Copies, MatrixProducts, busy_seconds, give_back_freed_memory, use_cores, wait
from _outcome import parser, tell
from _parts import flop_by_part
from _random_checkpoint import PARAMETERS, SIZES, parameters_of, random_checkpoint
from _road import Agreement, Trip, agreement, recipe_for, trained, write_photographs
from _subject import CAPTIONS_PER_IMAGE, Subject
from _watch import Seen
from captioncrafter import events
from captioncrafter.model import checkpoint, lora
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.hardware import Arithmetic, arithmetic_for, device_for
from captioncrafter.model.loading import load_model
from captioncrafter.model.stock import Tuned
from captioncrafter.stages.phases import Rehearsals
from captioncrafter.stages.plan import Plan, plan
from captioncrafter.training.mode import training_mode

QUICK = Trip(train=2, validation=2, images_per_step=2, images_per_batch=2, epochs=3)
ON_CPU = Trip(train=8, validation=4, images_per_step=8, images_per_batch=4, epochs=3)
ON_GPU = Trip(train=512, validation=128, images_per_step=32, images_per_batch=None, epochs=2)
NAIVE_IMAGES = {"cpu": 1, "cuda": 8}
NAIVE_RUNS = {"cpu": 1, "cuda": 5}

# Ours and the stock model's logits come out of the same layers in bfloat16, but in batches of other shapes, and ours
# from features in float16: 0.006 on a CPU, where training had moved them by 1.4.
LOGIT_TOLERANCE = 0.02
BF16 = torch.bfloat16


def main(arguments: Sequence[str] | None = None) -> None:
    """Goes the road with each preset, holds the adapters against the stock model, times the naive loop, tells all."""
    options = _options(arguments)
    started = time.monotonic()
    device = device_for(options.device)
    use_cores(options.threads)
    give_back_freed_memory()
    trip = QUICK if options.quick else ON_GPU if device.type == "cuda" else ON_CPU
    with tempfile.TemporaryDirectory(prefix="captioncrafter-") as name, random_checkpoint(options.size) as found:
        parameters = _checked_parameters(found, options.size)
        events.say(f"random weights drawn in {events.duration(time.monotonic() - started)}")
        machine = _machine(device)
        data = write_photographs(Path(name) / "data", trip)
        ways = (*PROVEN, *(RECOMPUTING if options.precisions or trip is ON_GPU else ()))
        if device.type == "cuda":
            _gone(found, write_photographs(Path(name) / "warm", QUICK), QUICK, PROVEN[0], device)  # CUDA's first calls
        done = {way.name: _gone(found, data, trip, way, device) for way in ways}
        agreements = {way.name: _agreed(found, done[way.name], device) for way in PROVEN}
        naive = _naive(found, device)
        facts = {
            "size": options.size,
            "device": f"{device}, {options.threads} threads",
            "trip": asdict(trip),
            "parameters": parameters | {"all": sum(parameters.values())},
            "gflop_by_part": _gflop_by_part(found, done[PROVEN[0].name].planned),
            "matrix_gflop_per_s": machine.flop_per_s / 1e9,
            "copied_gb_per_s": machine.bytes_per_s / 1e9,
            "logit_tolerance": LOGIT_TOLERANCE,
            "logits": {name: asdict(one) for name, one in agreements.items()},
            "host_memory_mib": _host_mib(found, done.values()),
            "seconds": time.monotonic() - started,
            "cpu_seconds": time.process_time(),
            "note": options.note,
        }
    planned = done[PROVEN[0].name].planned
    rows = {NAIVE: naive_row(naive, machine, facts["gflop_by_part"], planned.lengths.mean_tokens)}
    rows |= rows_of(done, machine, facts["gflop_by_part"])
    tell(
        "full_size",
        "one image-caption pair a sample, decoded and run through the whole stock model in every step, labels padded "
        f"to 32, bf16; busy seconds a caption (without what others took of the CPU); {options.size}, {facts['device']}",
        ratios_of(rows, done),
        {name: [seconds] for name, (seconds, _) in rows.items()},
        as_json=options.json,
        columns={name: columns for name, (_, columns) in rows.items()},
        facts=facts,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__ or "", rounds=False)
    options.add_argument("--quick", action="store_true", help="few images and few steps: minutes on two cores")
    options.add_argument("--size", choices=tuple(SIZES), default="xl", help="small tries this benchmark in seconds")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    options.add_argument("--threads", type=int, default=cores, help="threads, and cores; all by default")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda")
    options.add_argument(
        "--precisions", action="store_true", help="recomputing in bf16, int8 and nf4 too, as without --quick on a GPU"
    )
    options.add_argument("--note", default="", help="kept with the result: what else the machine had to do")
    return options.parse_args(arguments)


def _checked_parameters(found: Checkpoint, size: str) -> dict[str, int]:
    """How many parameters each part has; ends the benchmark where they are not the published model's."""
    counts = parameters_of(found)
    if size == "xl" and counts != PARAMETERS:
        raise SystemExit(f"parameters are {counts}, where the published model has {PARAMETERS}")
    return counts


def _machine(device: torch.device) -> Machine:
    products, copies = MatrixProducts(BF16, device), Copies(device)
    products_s, copies_s = (min(_timed(one.run, device).busy_seconds for _ in range(3)) for one in (products, copies))
    return Machine(products.times * products.flops / products_s, copies.times * copies.bytes / copies_s)


def _timed(run: Callable[[], object], device: torch.device, items: int = 1) -> Seen:
    wait(device)
    started, busy = time.perf_counter(), busy_seconds(device)
    run()
    wait(device)
    return Seen(items, time.perf_counter() - started, busy_seconds(device) - busy)


def _gone(found: Checkpoint, data: Path, trip: Trip, way: Way, device: torch.device) -> Done:
    """One way: what is planned, then what happens."""
    events.say(f"{way.name}: {trip.train} images for training, {trip.validation} for validation")
    options = recipe_for(
        found, data, trip, device, preset=way.preset, precision=way.precision, recomputing=way.recomputing
    )
    planned = plan(options)
    arithmetic = arithmetic_for(options.model.precision, device)
    rehearsals = Rehearsals(checkpoint.load_config(found), device.type, planned.lengths)
    kept = options.training.model_copy(update={"gradient_checkpointing": False})  # what it repeats is not needed
    step_flop = rehearsals.mean_step_flop(options.model_copy(update={"training": kept}), arithmetic)
    _let_go(device)
    done = trained(options, data.parent / f"{data.name}, {way.name}", device)
    _let_go(device)
    return Done(way, done, planned, step_flop)


def _let_go(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _agreed(found: Checkpoint, done: Done, device: torch.device) -> Agreement:
    """Ends the benchmark unless stock PEFT over the stock model gives our logits, and the adapter changes them."""
    one = agreement(found, done.trained, device)
    _let_go(device)
    told = (
        f"{done.way.name}: {one.logits:,} logits by stock PEFT on the stock model lie {one.to_stock:.1e} of their "
        f"norm from ours; the adapter moves them by {one.to_base:.1e}"
    )
    if not one.to_stock <= LOGIT_TOLERANCE or not one.to_base > 10 * one.to_stock:
        raise SystemExit(f"{told}: that is not the adapter that was trained")
    events.say(told)
    return one


class _Loaded(Subject):
    """The naive loop's subject with the weights of a checkpoint; its captions are of random tokens."""

    checkpoint: Checkpoint

    def whole(self, dtype: torch.dtype) -> Tuned:
        """The whole model with an adapter on its language model, in training mode."""
        options = self.options("efficient")
        model = load_model(self.checkpoint, arithmetic=Arithmetic(dtype), device=self.device)
        tuned = lora.attach(model, options.lora, seed=options.seed)
        training_mode(tuned, options.training)
        return tuned


def _naive(found: Checkpoint, device: torch.device) -> Seen:
    """The loop that public repositories have, at this size, in bfloat16: one run of it, the one of median time."""
    images, runs = NAIVE_IMAGES[device.type], NAIVE_RUNS[device.type]
    subject = _Loaded.drawn("full", images * CAPTIONS_PER_IMAGE, device)
    assert isinstance(subject, _Loaded)
    subject.checkpoint, subject.size = found, replace(subject.size, images_per_step=images)
    loop = PairLoop(subject, BF16)
    if device.type == "cuda":
        loop.run()  # CUDA's first calls
    seen = [_timed(loop.run, device, loop.captions_per_run) for _ in range(runs)]
    subject.close()
    return sorted(seen, key=lambda one: one.seconds)[runs // 2]


def _gflop_by_part(found: Checkpoint, planned: Plan) -> dict[str, float]:
    """By calculation: of one image and five captions of the data's mean length, forward."""
    tokens = round(planned.lengths.mean_tokens / CAPTIONS_PER_IMAGE)
    config = checkpoint.load_config(found)
    counted = flop_by_part(config, prompt_tokens=planned.lengths.prompt_tokens, caption_tokens=tokens)
    return {part: flop / 1e9 for part, flop in counted.items()}


def _host_mib(found: Checkpoint, done: Collection[Done]) -> float:
    """The most that this process and the weights file held together, imported libraries included."""
    file = (found.folder / "model.safetensors").stat().st_size / 2**20
    return file + max(seen.own_mib for one in done for seen in one.trained.phases.values())


if __name__ == "__main__":
    main()
