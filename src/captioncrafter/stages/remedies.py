"""The cheapest change of a recipe that makes it fit into memory, in the order of what a change costs.

A smaller batch costs a little time, recomputing a third more of it; a smaller adapter or coarser weights change what
comes out.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from captioncrafter import recipe

Needs = Callable[[recipe.Recipe], dict[str, int]]
"""Bytes that each phase of a recipe needs, by its name."""

_HEAVY: tuple[dict[str, Any], ...] = (
    {},
    {"lora.preset": "fast"},
    {"model.precision": "int8"},
    {"lora.preset": "fast", "model.precision": "int8"},
    {"model.precision": "nf4"},
    {"lora.preset": "fast", "model.precision": "nf4"},
)
_SHRINKING = {"features": "features.images_per_batch", "validation": "decoding.images_per_batch"}
_OTHER_RESULT = {
    "lora.preset": "tunes the decoder alone, which may score lower",
    "model.precision": "holds the base coarser, which may score lower",
}


def cheapest(options: recipe.Recipe, needs: Needs, limit: int) -> dict[str, Any] | None:
    """The options to change, by key, so that no phase needs more than `limit` bytes; None where nothing helps."""
    for heavy in _HEAVY:
        for recomputes in ({}, {"training.gradient_checkpointing": True}):
            changes = heavy | recomputes
            if _changes_nothing(options, changes) or changed(options, changes) is None:
                continue
            if (found := _with_smaller_batches(options, changes, needs, limit)) is not None:
                return found
    return None


def _with_smaller_batches(
    options: recipe.Recipe, changes: dict[str, Any], needs: Needs, limit: int
) -> dict[str, Any] | None:
    """`changes` and the largest batches with which every phase fits; None when single images are too much."""
    key, sizes = "training.images_per_batch", list(_batch_sizes(options.training))
    if _shrunk(options, changes | {key: sizes[-1]}, needs, limit) is None:
        return None
    for size in sizes:
        batch = {} if size == sizes[0] else {key: size}
        if (found := _shrunk(options, changes | batch, needs, limit)) is not None:
            return found
    return None


def _batch_sizes(training: recipe.Training) -> Iterator[int]:
    """Batches that divide the step, from the recipe's own down."""
    for size in range(training.images_per_batch, 0, -1):
        if training.images_per_step % size == 0:
            yield size


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
    return any(value_of(options, key) == value or (key == "lora.preset" and named) for key, value in changes.items())


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
    return [f"{key} = {value} {_OTHER_RESULT[key]}" for key, value in changes.items() if key in _OTHER_RESULT]
