"""Where the numbers come from, as tables: how scores were taken, the recipe, what the run's manifest states."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioncrafter.recipe import Recipe
from captioncrafter.report.content import number

_LISTED_AT_MOST = 12
_MEASURED = ("metrics", "diversity", "grounding", "seen_in_training", "partial")


@dataclass(frozen=True)
class Entry:
    """A named value; `chosen` when a recipe states it and it is not the default."""

    name: str
    value: str
    chosen: bool = False


@dataclass(frozen=True)
class Section:
    """Entries that belong together."""

    title: str
    entries: Sequence[Entry]


def protocol_sections(scores: Mapping[str, Any]) -> list[Section]:
    """Everything that `scores.json` says besides the scores: images, split, prompt, decoding, scorers."""
    return _sections({key: value for key, value in scores.items() if key not in _MEASURED}, "evaluation")


def recipe_sections(recipe: Mapping[str, Any]) -> list[Section]:
    """The recipe's options, those that differ from the defaults marked as chosen."""
    defaults = dict(_flat(Recipe().model_dump(mode="json")))
    return _sections(recipe, "recipe", defaults)


def manifest_sections(manifest: Mapping[str, Any]) -> list[Section]:
    """The manifest's entries: versions, fingerprints, what was measured before the first step, what was left out."""
    return _sections(manifest, "run")


def spoken(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, list | tuple):
        listed = ", ".join(map(spoken, value[:_LISTED_AT_MOST]))
        more = len(value) - _LISTED_AT_MOST
        return (f"{listed} and {more:,} more" if more > 0 else listed) or "none"
    return str(value)


def _sections(values: Mapping[str, Any], loose_title: str, defaults: Mapping[str, Any] | None = None) -> list[Section]:
    """A section for each nested mapping, after one of the values that stand alone."""
    alone = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    nested = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    sections = [Section(loose_title, _entries(alone, "", defaults))] if alone else []
    sections += [Section(_title(key), _entries(value, f"{key}.", defaults)) for key, value in nested.items() if value]
    return sections


def _entries(values: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any] | None) -> list[Entry]:
    return [
        Entry(_title(key), spoken(value), _is_chosen(f"{prefix}{key}", value, defaults)) for key, value in _flat(values)
    ]


def _is_chosen(key: str, value: Any, defaults: Mapping[str, Any] | None) -> bool:
    return defaults is not None and spoken(defaults.get(key)) != spoken(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _title(key: str) -> str:
    return key.replace("_", " ").replace(".", " › ")
