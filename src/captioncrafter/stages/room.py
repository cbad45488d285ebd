"""How much memory there is, what device and allocator take of it, and how many images at once the rest holds."""

from collections.abc import Callable
from typing import Any

import torch

from captioncrafter import events, recipe
from captioncrafter.data.splits import CaptionedImages
from captioncrafter.errors import counted
from captioncrafter.stages.base import Base
from captioncrafter.stages.caption_lengths import lengths_of
from captioncrafter.stages.phases import Phase, Rehearsals
from captioncrafter.training.processes import Processes

# CUDA's context and cuBLAS's workspace; and what torch's allocator cannot fill, as a share of what comes and goes. An
# H200's context took 0.55 GB at first, 0.81 once every library was loaded; a smaller card's is smaller.
_CUDA_CONTEXT_BYTES = 600 * 2**20
_CUDA_GAPS = 0.1
# glibc keeps what is freed in between: measured on the mid-size model as half of what comes and goes, and as much again
# as all of it where activations are recomputed.
_CPU_GAPS, _CPU_GAPS_RECOMPUTING = 0.5, 1.0

COMFORT = 0.9
"""Share of a GPU that is filled where there is a choice: the last megabyte is not worth the risk."""

# Calculated for xl on cards of 25 to 165 TFLOP/s and 270 to 1,000 GB/s: reading the weights takes 0.5 to 1.1 times as
# long as the arithmetic of an image, twice that where they are unpacked first. If once: single images take twice their
# arithmetic, pairs 1.5 times, eight recomputed 1.5 times.
_LEAST_BATCH = {"int8": 4, "nf4": 4}
_USUAL_LEAST_BATCH = 2

IMAGES_AT_ONCE = "images_per_batch"
"""Where a run's manifest keeps how many images it computes at once."""


def reserve_bytes(phase: Phase, options: recipe.Recipe, kind: str) -> int:
    """What a device of that kind (`cuda`, `cpu`) and its allocator take beyond tensors."""
    if kind == "cuda":
        return _CUDA_CONTEXT_BYTES + round(_CUDA_GAPS * phase.working_bytes)
    recomputes = phase.name == "training" and options.training.gradient_checkpointing
    return round((_CPU_GAPS_RECOMPUTING if recomputes else _CPU_GAPS) * phase.working_bytes)


def gpu_bytes(device: torch.device) -> int:
    """The GPU's memory, without what other processes hold of it."""
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device) + _CUDA_CONTEXT_BYTES
    return total - max(0, total - free - own)


def least_at_once(options: recipe.Recipe) -> int:
    """The fewest images at once that do not take longer than recomputing activations would."""
    if options.training.gradient_checkpointing:
        return 1
    return _LEAST_BATCH.get(options.model.precision, _USUAL_LEAST_BATCH)


def most_at_once(
    options: recipe.Recipe, needs: Callable[[recipe.Recipe], int], limit_bytes: int, *, most: int | None = None
) -> int | None:
    """The most images at once, `most` or the whole step at best, with which training `needs` less than the limit.

    A tenth is left free; where that leaves single images or none, two, or the fewest that are worth trying, may take
    all of it. None where they are too many too.
    """
    sizes = _worth_trying(options, most or options.training.images_per_step)
    several = [size for size in sizes if size > 1]
    for size in several:
        if needs(with_at_once(options, size)) <= COMFORT * limit_bytes:
            return size
    for size in dict.fromkeys([*several[-1:], sizes[-1]]):
        if needs(with_at_once(options, size)) <= limit_bytes:
            return size
    return None


def fewest_at_once(options: recipe.Recipe, *, most: int | None = None) -> int:
    """The number of images at once to begin with where memory is too small for any."""
    return _worth_trying(options, most or options.training.images_per_step)[-1]


def _worth_trying(options: recipe.Recipe, most: int) -> list[int]:
    sizes = options.training.batch_sizes(most)
    return [size for size in sizes if size >= least_at_once(options)] or sizes[:1]


def with_at_once(options: recipe.Recipe, images: int) -> recipe.Recipe:
    """The recipe with so many images computed at once."""
    return options.model_copy(update={"training": options.training.at_once(images)})


def settled(
    options: recipe.Recipe,
    base: Base,
    splits: dict[str, CaptionedImages],
    begun: dict[str, Any],
    processes: Processes,
) -> recipe.Recipe:
    """The recipe with a number of images at once; `begun` is the manifest of the run that goes on, whose number stays.

    On a GPU it is what its memory holds, the same in all processes, and each has its part of the step.
    """
    training = options.training
    if training.images_per_batch is not None:
        return options
    if IMAGES_AT_ONCE in begun:
        return with_at_once(options, int(begun[IMAGES_AT_ONCE]))
    if base.device.type != "cuda":
        return with_at_once(options, training.usual_batch)
    images = min(processes.everywhere(_fitting(options, base, splits, processes.world)))
    events.say(
        f"{counted(images, 'image')} at once of {training.images_per_step} a step, by this GPU's memory "
        "(training.images_per_batch)"
    )
    return with_at_once(options, images)


def _fitting(options: recipe.Recipe, base: Base, splits: dict[str, CaptionedImages], world: int) -> int:
    rehearsals = Rehearsals(base.config, base.device.type, lengths_of(splits, options, base.checkpoint))

    def needs(trial: recipe.Recipe) -> int:
        phase = rehearsals.training(trial, base.arithmetic)
        return phase.bytes + reserve_bytes(phase, trial, base.device.type)

    most = max(1, options.training.images_per_step // world)
    return most_at_once(options, needs, gpu_bytes(base.device), most=most) or fewest_at_once(options, most=most)
