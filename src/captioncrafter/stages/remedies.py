"""The cheapest change of a recipe that makes it fit into memory, in the order of what a change costs.

A smaller batch costs some time, recomputing a third more of it; a smaller adapter or coarser weights change what comes
out. Each batch reads all weights twice, whatever it holds: of very few images that takes longer than recomputing would.
"""

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from captioncrafter import recipe
from captioncrafter.stages import room

Needs = Callable[[recipe.Recipe], dict[str, int]]
"""Bytes that each phase of a recipe needs, by its name."""

_HEAVY: tuple[dict[str, Any], ...] = (
    {},
    {"lora.preset": "efficient"},
    {"lora.preset": "fast"},
    {"model.precision": "int8"},
    {"lora.preset": "fast", "model.precision": "int8"},
    {"model.precision": "nf4"},
    {"lora.preset": "fast", "model.precision": "nf4"},
)
_PRESETS = ("fast", "efficient", "quality", "full-bridge")
"""From the smallest to the largest."""
_BATCH = "training.images_per_batch"
_SHRINKING = {"features": "features.images_per_batch", "validation": "decoding.images_per_batch"}
_OTHER_RESULT = {
    ("lora.preset", "efficient"): "leaves the Q-Former as it is, which may score lower",
    ("lora.preset", "fast"): "tunes the decoder alone, which may score lower",
    ("model.precision", "int8"): "holds the base coarser, which may score lower",
    ("model.precision", "nf4"): "holds the base coarser, which may score lower; flickr8k-flan-t5-xl-qlora is a recipe "
    "for it, with adapters on all linear layers",
}


def cheapest(options: recipe.Recipe, needs: Needs, limit: int) -> dict[str, Any] | None:
    """The options to change, by key, so that no phase needs more than `limit` bytes; None where nothing helps.

    Where the recipe leaves open how many images are computed at once, `needs` is of the most that fit.
    """
    for heavy in _HEAVY:
        for recomputes in ({}, {"training.gradient_checkpointing": True}):
            changes = heavy | recomputes
            if _changes_nothing(options, changes) or changed(options, changes) is None:
                continue
            if (found := _with_smaller_batches(options, changes, needs, limit)) is not None:
                return found
    return None


def with_larger_batches(options: recipe.Recipe, needs: Needs, limit: int) -> dict[str, Any]:
    """The most training images at once with which no phase needs more than `limit` bytes; empty where none fit more."""
    for size in options.training.batch_sizes(options.training.images_per_step):
        trial = changed(options, {_BATCH: size})
        if size == options.training.images_per_batch:
            break
        if trial and max(needs(trial).values()) <= limit:
            return {_BATCH: size}
    return {}


def _with_smaller_batches(
    options: recipe.Recipe, changes: dict[str, Any], needs: Needs, limit: int
) -> dict[str, Any] | None:
    """`changes` and the largest batches with which every phase fits; None when the smallest are too much."""
    trial = changed(options, changes)
    assert trial is not None
    at_once = trial.training.images_per_batch
    if at_once is None:
        return _shrunk(options, changes, needs, limit)
    least = min(room.least_at_once(trial), at_once)
    sizes = [size for size in trial.training.batch_sizes(at_once) if size >= least]
    if _shrunk(options, changes | {_BATCH: sizes[-1]}, needs, limit) is None:
        return None
    for size in sizes:
        batch = {} if size == sizes[0] else {_BATCH: size}
        if (found := _shrunk(options, changes | batch, needs, limit)) is not None:
            return found
    return None


def _shrunk(options: recipe.Recipe, changes: dict[str, Any], needs: Needs, limit: int) -> dict[str, Any] | None:
    """`changes` with batches of the other phases halved until these fit too."""
    while True:
        trial = changed(options, changes)
        assert trial is not None
        tight = [name for name, bytes_ in needs(trial).items() if bytes_ > limit]
        if not tight:
            return changes
        key = _SHRINKING.get(tight[0])
        if key is None or (size := value_of(trial, key)) == 1:
            return None
        changes = changes | {key: size // 2}


def _changes_nothing(options: recipe.Recipe, changes: dict[str, Any]) -> bool:
    """Whether one of the changes is what the recipe says anyway, or what it names layer by layer."""
    named = options.lora.parts is not None or options.lora.pattern is not None
    preset = changes.get("lora.preset", _PRESETS[0])
    if "lora.preset" in changes and (named or _PRESETS.index(preset) >= _PRESETS.index(options.lora.preset)):
        return True
    return any(value_of(options, key) == value for key, value in changes.items())


def changed(options: recipe.Recipe, changes: dict[str, Any]) -> recipe.Recipe | None:
    """`options` with other values, by dotted key; None when they do not go together."""
    values = options.model_dump()
    for key, value in changes.items():
        section, name = key.split(".")
        values[section][name] = value
    try:
        return recipe.Recipe.model_validate(values)
    except ValidationError:
        return None


def value_of(options: recipe.Recipe, key: str) -> Any:
    """What the recipe says for a dotted key."""
    section, name = key.split(".")
    return getattr(getattr(options, section), name)


def flags(changes: dict[str, Any]) -> list[str]:
    """The changes as words for `captioncrafter train RECIPE`."""
    words = []
    for key, value in changes.items():
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return words


def warnings(changes: dict[str, Any]) -> list[str]:
    """What the changes do to the result, beyond time."""
    return [
        f"{key} = {value} {_OTHER_RESULT[key, value]}"
        for key, value in changes.items()
        if (key, value) in _OTHER_RESULT
    ]
