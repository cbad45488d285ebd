"""`captioncrafter plan`: what a recipe needs of memory, disk and time, before anything large is downloaded."""

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from captioncrafter import events, recipe
from captioncrafter.errors import InputError
from captioncrafter.model import checkpoint, hardware, memory
from captioncrafter.model.cut import Cut
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.stages import remedies, room, speed
from captioncrafter.stages.caption_lengths import CaptionLengths, caption_lengths
from captioncrafter.stages.phases import Phase, Rehearsals, feature_shape
from captioncrafter.stages.run_start import located

_UNITS = {"GB": 10**9, "G": 10**9, "GIB": 2**30, "MB": 10**6, "M": 10**6, "MIB": 2**20}

_COARSER: tuple[recipe.Precision, ...] = ("int8", "nf4")


@dataclass(frozen=True)
class Target:
    """The device that is planned for; `here` is None when this machine has none. `limit_of` says whose limit it is."""

    kind: str
    here: torch.device | None
    limit_bytes: int
    limit_of: str


@dataclass(frozen=True)
class Room:
    """A change that uses memory which a plan leaves over, as flags, and the most that any phase needs with it."""

    flags: list[str]
    peak_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a recipe comes to. `reserve_bytes` (by phase) is what device and allocator take beyond tensors.

    `flags` are the cheapest change that makes it fit: empty when it fits, None when nothing does; with it the most that
    any phase needs is `changed_peak_bytes`, and all that follows is told with it, the images that training computes at
    once first. `room` is for a recipe that states how many those are, on a GPU with room for more; else the phases have
    as many as fit. `captioning_bytes` is what the whole model takes once it captions from pixels,
    `captioning_precision` the first with which that is within the limit: the recipe's, int8, nf4 or none. `revision` is
    the commit of a base of the hub, `pinned` whether the recipe names it.
    """

    base: str
    revision: str | None
    pinned: bool
    device: str
    precision: str
    cut: Cut
    parts: list[memory.Part]
    trained_parameters: int
    phases: list[Phase]
    reserve_bytes: dict[str, int]
    limit_bytes: int
    limit_of: str
    flags: list[str] | None
    changed_peak_bytes: int | None
    images_at_once: int
    cautions: list[str]
    room: Room | None
    captioning_bytes: int
    captioning_precision: recipe.Precision | None
    cache_bytes: int
    lengths: CaptionLengths
    times: speed.Times | None

    @property
    def peak_bytes(self) -> int:
        """The most that any phase needs, reserve included."""
        return max(phase.bytes + self.reserve_bytes[phase.name] for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether that is within the limit."""
        return self.peak_bytes <= self.limit_bytes

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        phases = [
            asdict(phase) | {"bytes": phase.bytes, "reserve_bytes": self.reserve_bytes[phase.name]}
            for phase in self.phases
        ]
        values = asdict(self) | {"phases": phases, "peak_bytes": self.peak_bytes, "fits": self.fits}
        del values["reserve_bytes"]
        return values | {"cut": str(self.cut)}


def plan(options: recipe.Recipe, *, gpu_memory: str | None = None, gpu_tflops: float | None = None) -> Plan:
    """What `options` need on the recipe's device, or on a GPU with `gpu_memory` (like 8GB).

    With `gpu_tflops`, times are told for a device of that rate in matrix products, by default as measured here. Nothing
    but the base's configuration is downloaded. Raises `InputError` for a wrong recipe, size or rate.
    """
    if gpu_tflops is not None and not 0 < gpu_tflops < math.inf:
        raise InputError(f"--gpu-tflops {gpu_tflops:g} is no rate: write what the card does in bfloat16, like 71.")
    options = located(options)
    found = checkpoint.find(options.model.base, options.model.revision, only_config=True)
    config = checkpoint.load_config(found)
    target = _target(options, gpu_memory)
    lengths = caption_lengths(options, found)
    rehearsals = Rehearsals(config, target.kind, lengths)
    arithmetic = _arithmetic(options.model.precision, target)

    def bytes_of(phase: Phase, trial: recipe.Recipe) -> int:
        return phase.bytes + room.reserve_bytes(phase, trial, target.kind)

    def training_needs(trial: recipe.Recipe) -> int:
        return bytes_of(rehearsals.training(trial, _arithmetic(trial.model.precision, target)), trial)

    def settled(trial: recipe.Recipe) -> recipe.Recipe:
        """With the images at once that training would choose, as `room.settled` does."""
        if trial.training.images_per_batch is not None:
            return trial
        if target.kind != "cuda":
            return room.with_at_once(trial, trial.training.usual_batch)
        fitting = room.most_at_once(trial, training_needs, target.limit_bytes)
        return room.with_at_once(trial, fitting or room.fewest_at_once(trial))

    def needs(trial: recipe.Recipe) -> dict[str, int]:
        trial = settled(trial)
        phases = rehearsals.phases(trial, _arithmetic(trial.model.precision, target))
        return {phase.name: bytes_of(phase, trial) for phase in phases}

    def peak_with(changes: dict[str, Any]) -> int:
        return max(needs(remedies.changed(options, changes) or options).values())

    if target.kind != "cuda":
        options = settled(options)
    shown = settled(options)
    phases = rehearsals.phases(shown, arithmetic)
    changes: dict[str, Any] | None = {}
    more: dict[str, Any] = {}
    if peak_with({}) > target.limit_bytes:
        events.say("does not fit: looking for the cheapest change that makes it")
        changes = remedies.cheapest(options, needs, target.limit_bytes)
    elif target.kind == "cuda" and options.training.images_per_batch is not None:
        more = remedies.with_larger_batches(options, needs, round(room.COMFORT * target.limit_bytes))
    trained = settled(remedies.changed(options, changes or {}) or options)
    captioning = _captioning(trained, rehearsals, target)
    cut = rehearsals.cut(options)
    model = rehearsals.tuned(options.lora, arithmetic.dtype).get_base_model()
    return Plan(
        base=options.model.base,
        revision=found.revision,
        pinned=found.is_pinned_by(options.model.revision),
        device=str(target.here or target.kind),
        precision=arithmetic.name,
        cut=cut,
        parts=memory.parts_of(model, arithmetic),
        trained_parameters=rehearsals.adapter_parameters(options, arithmetic.dtype),
        phases=phases,
        reserve_bytes={phase.name: room.reserve_bytes(phase, shown, target.kind) for phase in phases},
        limit_bytes=target.limit_bytes,
        limit_of=target.limit_of,
        flags=None if changes is None else remedies.flags(changes),
        changed_peak_bytes=peak_with(changes) if changes else None,
        images_at_once=trained.training.usual_batch,
        cautions=remedies.warnings(changes or {}),
        room=Room(remedies.flags(more), peak_with(more)) if more else None,
        captioning_bytes=captioning[trained.model.precision],
        captioning_precision=next((name for name, size in captioning.items() if size <= target.limit_bytes), None),
        cache_bytes=_cache_bytes(options, config, cut, lengths),
        lengths=lengths,
        times=_times(trained, rehearsals, target, gpu_tflops),
    )


def _target(options: recipe.Recipe, gpu_memory: str | None) -> Target:
    if gpu_memory is None:
        device = hardware.device_for(options.model.device)
        limit, limit_of = _memory_of(device)
        return Target(device.type, device, limit, limit_of)
    limit = size_bytes(gpu_memory)
    here = torch.device("cuda") if torch.cuda.is_available() else None
    return Target("cuda", here, limit, f"a GPU with {gpu_memory}")


def size_bytes(text: str) -> int:
    """Bytes in a size like 8GB (10⁹) or 8GiB (2³⁰); raises `InputError` for anything else."""
    number = text.strip().rstrip("GgMmIiBb ")
    unit = text.strip()[len(number) :].strip().upper()
    try:
        size = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        size = 0.0
    if not 0 < size < math.inf:
        raise InputError(f'--gpu-memory "{text}" is no size: write 8GB, 23.5GiB or 512MB.')
    return int(size)


def _memory_of(device: torch.device) -> tuple[int, str]:
    if device.type == "cuda":
        return room.gpu_bytes(device), torch.cuda.get_device_name(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory(), "this machine's GPU"
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        rows = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "MemAvailable" in rows:
            return int(rows["MemAvailable"].split()[0]) * 1024, "this machine's free memory"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine's memory"


def _arithmetic(precision: recipe.Precision, target: Target) -> Arithmetic:
    """As `hardware.arithmetic_for`, without bitsandbytes; a device that is not here is taken to have bfloat16."""
    if precision in ("bf16", "fp32"):
        return Arithmetic({"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    plain = torch.bfloat16 if target.here is None else hardware.arithmetic_for("auto", target.here).dtype
    return Arithmetic(plain, precision if precision in ("int8", "nf4") else None)


def _captioning(options: recipe.Recipe, rehearsals: Rehearsals, target: Target) -> dict[recipe.Precision, int]:
    """What captioning takes in the recipe's precision and in coarser ones, by name."""
    needed: dict[recipe.Precision, int] = {}
    for name in (options.model.precision, *_COARSER):
        phase = rehearsals.captioning(options, _arithmetic(name, target))
        needed[name] = phase.bytes + room.reserve_bytes(phase, options, target.kind)
    return needed


def _cache_bytes(options: recipe.Recipe, config: Any, cut: Cut, lengths: CaptionLengths) -> int:
    """Bytes of all stored features; auto stores two bytes a number."""
    if cut is Cut.IMAGES:
        return 0
    each = 4 if options.features.dtype == "float32" else 2
    return each * math.prod(feature_shape(config, cut, lengths.prompt_tokens)) * lengths.shown_images


def _times(options: recipe.Recipe, rehearsals: Rehearsals, target: Target, tflops: float | None) -> speed.Times | None:
    """None where the device is not here to be measured, and nobody says what it can do."""
    arithmetic = _arithmetic(options.model.precision, target)
    if tflops is not None:
        rate = 1e12 * tflops
    elif target.here is not None:
        rate = speed.matrix_rate(target.here, arithmetic)
    else:
        return None
    lengths, training = rehearsals.lengths, options.training
    by_name = {phase.name: phase for phase in rehearsals.phases(options, arithmetic)}
    cache_s = 0.0
    if (features := by_name.get("features")) is not None:
        computing_s = features.flop / features.images / (rate * speed.UTILISATION)
        cache_s = lengths.shown_images * max(computing_s, 1 / speed.DECODED_IMAGES_PER_S)
    batch_s = rehearsals.mean_step_flop(options, arithmetic) / (rate * speed.UTILISATION)
    epoch_s = lengths.images * batch_s / training.usual_batch
    writing = by_name["validation"]
    image_s = writing.flop / writing.images / (rate * speed.DECODING_UTILISATION)
    validation_s = image_s * min(lengths.validation_images, options.validation.images or lengths.validation_images)
    validations = 1 + math.ceil(training.epochs / options.validation.every_epochs)
    run_s = cache_s + training.epochs * epoch_s + validations * validation_s
    return speed.Times(cache_s, epoch_s, validation_s, run_s, rate)
