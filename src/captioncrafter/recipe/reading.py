"""How a recipe file becomes a recipe, and what is said when it cannot.

A recipe is a TOML file that states only what differs from the defaults. Bundled ones live in `captioncrafter/recipes/`
and are called by name. Imports no torch.
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from captioncrafter.errors import InputError, RecipeError, closest
from captioncrafter.recipe.options import Decoding, Recipe
from captioncrafter.recipe.section import Section


def bundled() -> list[str]:
    """Names of the recipes in the package, sorted."""
    folder = resources.files("captioncrafter") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name: str) -> Recipe:
    """The recipe called `name`: a bundled one, or a TOML file.

    Raises `RecipeError` naming the file, the key and the nearest valid name.
    """
    if name in bundled():
        text = (resources.files("captioncrafter") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        return parse(text, source=f"{name}.toml")
    path = Path(name)
    if not path.is_file():
        raise RecipeError(
            f'no recipe is called "{name}", and no such file exists.{closest(name, bundled())} '
            f"Bundled recipes: {', '.join(bundled())}."
        )
    try:
        return parse(path.read_text(encoding="utf-8-sig"), source=str(path))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error}).") from None


def parse(text: str, *, source: str) -> Recipe:
    """The recipe that the TOML `text` states; `source` names it in errors."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source}: not valid TOML: {error}.") from None
    return build(values, source=source)


def build(values: dict[str, Any], *, source: str) -> Recipe:
    """The recipe of these nested values; raises `RecipeError` naming every wrong key."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(explain(error, source=source)) from None


def check_decoding(settings: dict[str, Any], *, source: str = "decoding") -> Decoding:
    """The decoding that these settings make of the defaults; raises `InputError` naming every wrong one."""
    try:
        return Decoding.model_validate(settings)
    except ValidationError as error:
        raise InputError(explain(error, source=source, checked=Decoding)) from None


def explain(error: ValidationError, *, source: str, checked: type[Section] = Recipe) -> str:
    """Pydantic's findings as one line each: the file, the key, what is wrong, the nearest valid name of `checked`."""
    findings = error.errors()
    # A list loses its wrong items first and is then found too short: what is wrong inside says it all.
    outer = {finding["loc"][:-1] for finding in findings if finding["loc"]}
    return "\n".join(f"{source}: {_finding(one, checked)}" for one in findings if one["loc"] not in outer)


def _finding(finding: Any, checked: type[Section]) -> str:
    location = [str(part) for part in finding["loc"]]
    key = ".".join(location)
    if finding["type"] == "extra_forbidden":
        return f'unknown key "{key}".{_nearest(location, checked)}'
    message = _in_words_of_toml(finding["type"], finding["msg"].removeprefix("Value error, "))
    if isinstance(finding["input"], dict | BaseModel):
        return f"[{key}]: {message}." if key else f"{message}."
    return f"{key} = {finding['input']!r}: {message}."


def _in_words_of_toml(kind: str, message: str) -> str:
    if kind == "model_type":
        return "input should be a section"
    return (message[0].lower() + message[1:]).replace("a valid tuple", "a list").replace("tuple", "list")


def _nearest(location: list[str], checked: type[Section]) -> str:
    section: type[BaseModel] | None = checked
    for part in location[:-1]:
        section = _sections(section).get(part) if section else None
    names = list(section.model_fields) if section else []
    hint = closest(location[-1], names)
    if hint or not names:
        return hint
    return f" Keys here: {', '.join(names)}."


def _sections(section: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for name, field in section.model_fields.items():
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                found[name] = candidate
    return found
