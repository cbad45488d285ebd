"""What the full-size benchmark tells: each phase's speed and memory beside the machine's best and the plan."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from _road import Trained
from _subject import CAPTIONS_PER_IMAGE
from _watch import Seen
from captioncrafter.stages.plan import Plan

NAIVE, NAIVE_TOKENS = "naive, bf16", 32
EPOCHS = 3


@dataclass(frozen=True)
class Way:
    """A recipe that goes the road: what is tuned, and how the frozen weights are held."""

    preset: str
    precision: str = "bf16"
    recomputing: bool = False

    @property
    def name(self) -> str:
        """As rows have it."""
        return f"{self.preset}, {self.precision}{', recomputing' if self.recomputing else ''}"


PROVEN = (Way("efficient"), Way("fast"))
RECOMPUTING = tuple(Way("efficient", precision, recomputing=True) for precision in ("bf16", "int8", "nf4"))


@dataclass(frozen=True)
class Done:
    """A way that was gone to its end, and what `captioncrafter plan` said of it."""

    way: Way
    trained: Trained
    planned: Plan
    step_flop: int


@dataclass(frozen=True)
class Machine:
    """What the device does at best: operations of a large bf16 matrix product, bytes of a copy, a busy second."""

    flop_per_s: float
    bytes_per_s: float


Columns = dict[str, float]


def naive_row(
    seen: Seen, machine: Machine, by_part: Mapping[str, float], tokens_an_image: int
) -> tuple[float, Columns]:
    """Its operations by calculation: the frozen half forward, the rest forward and back, each caption on its own."""
    parts = dict(by_part)
    frozen = sum(parts.pop(part) for part in ("vision_model", "qformer", "language_projection"))
    language = parts.pop("language_model.encoder") + NAIVE_TOKENS / tokens_an_image * sum(parts.values())
    return seen.seconds_an_item, _speed(seen, frozen + 2 * language, machine)


def _speed(seen: Seen, gflop: float, machine: Machine) -> Columns:
    return {
        "per_s": 1 / seen.seconds_an_item,
        "busy_s": seen.busy_seconds_an_item,
        "gflop": gflop,
        "utilisation": gflop * 1e9 / seen.busy_seconds_an_item / machine.flop_per_s,
    }


def rows_of(
    done: Mapping[str, Done], machine: Machine, gflop_by_part: Mapping[str, float]
) -> dict[str, tuple[float, Columns]]:
    """Of every phase: seconds an image (in training, a caption), and how that compares with plan and machine."""
    rows: dict[str, tuple[float, Columns]] = {}
    for name, one in done.items():
        planned = {phase.name: phase for phase in one.planned.phases}
        gflop = _gflop(one, gflop_by_part)
        for phase, seen in one.trained.phases.items():
            if not seen.items:  # features that another way had stored
                continue
            columns = _speed(seen, gflop[phase], machine) if phase in gflop else {}
            if phase == "validation":
                columns["bandwidth_share"] = _weights_read(one) / seen.busy_seconds / machine.bytes_per_s
            columns["peak_mib"] = seen.peak_mib
            columns["planned_mib"] = planned[phase].bytes / 2**20
            columns["planned_with_reserve_mib"] = columns["planned_mib"] + one.planned.reserve_bytes[phase] / 2**20
            rows[f"{name}: {phase}"] = (seen.seconds_an_item, columns)
    return rows


def _gflop(one: Done, by_part: Mapping[str, float]) -> dict[str, float]:
    """What an image of each phase needs, a caption in training; nothing that recomputing repeats."""
    planned, options = one.planned, one.trained.options
    features = next(phase for phase in planned.phases if phase.name == "features")
    written = options.decoding.max_new_tokens / planned.lengths.mean_tokens
    decoding = written * (by_part["language_model.decoder"] + by_part["language_model.lm_head"])
    encoding = 0.0 if one.way.preset == "fast" else by_part["language_model.encoder"]
    captions = options.training.usual_batch * planned.lengths.captions_per_image
    return {
        "features": features.flop / features.images / 1e9,
        "training": one.step_flop / captions / 1e9,
        "validation": encoding + decoding,
    }


def _weights_read(one: Done) -> float:
    """Bytes of the decoder and head, read once for each token of each batch; random weights never end a caption."""
    options, lengths = one.trained.options, one.planned.lengths
    weights = {part.name: part.bytes for part in one.planned.parts}
    decoder = weights["language_model.decoder"] + weights["language_model.lm_head"]
    validations = one.trained.phases["validation"].items / lengths.validation_images
    batches = math.ceil(lengths.validation_images / options.decoding.images_per_batch)
    return validations * batches * options.decoding.max_new_tokens * decoder


def ratios_of(rows: Mapping[str, tuple[float, Columns]], done: Mapping[str, Done]) -> dict[str, float]:
    """How many times faster than the naive loop: a step of each way, and three epochs with the cache built first."""
    busy = {name: columns["busy_s"] for name, (_, columns) in rows.items() if "busy_s" in columns}
    naive_s = busy[NAIVE]
    ratios = {name.replace(", ", "_"): naive_s / busy[f"{name}: training"] for name in done}
    for name, way in ((f"{EPOCHS}_epochs_with_cache_{way.preset}", way.name) for way in PROVEN):
        passes = EPOCHS * CAPTIONS_PER_IMAGE
        ratios[name] = passes * naive_s / (passes * busy[f"{way}: training"] + busy[f"{way}: features"])
    return ratios
