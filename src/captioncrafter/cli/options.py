"""A recipe's options on the command line: taken as they are given, then checked all at once, as a file's are.

Left to itself, tyro makes each section alone and shows pydantic's own words for the first that is wrong.
"""

from dataclasses import replace
from typing import get_type_hints

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from captioncrafter import recipe
from captioncrafter.cli.commands import Plan, Train
from captioncrafter.recipe.section import Section

_EXCLUSIVE = (
    ("data", "path", ("scenes",)),
    ("lora", "pattern", ("parts", "targets")),
    ("lora", "parts", ("pattern",)),
    ("lora", "targets", ("pattern",)),
)
"""Of a section, an option and those that it excludes."""

unchecked_sections = ConstructorRegistry()
"""Within it, tyro makes sections without checking them."""


@unchecked_sections.struct_rule
def _section(info: StructTypeInfo) -> StructConstructorSpec | None:
    section = info.type
    if not (isinstance(section, type) and issubclass(section, Section)):
        return None
    types = get_type_hints(section, include_extras=True)
    given = info.default if isinstance(info.default, section) else None

    def make(**values: object) -> Section:
        return section.model_construct(None, **values)

    make.__doc__ = section.__doc__
    fields = [
        StructFieldSpec(
            name=name,
            type=types[name],
            default=getattr(given, name) if given else field.get_default(call_default_factory=True),
            helptext=field.description,
        )
        for name, field in section.model_fields.items()
    ]
    return StructConstructorSpec(instantiate=make, fields=tuple(fields))


def checked(command: Train | Plan, before: recipe.Recipe) -> Train | Plan:
    """The command with its recipe checked; `before` is the recipe without the options given.

    Where one was given that excludes others, it takes the place of those of the recipe. Raises `RecipeError` naming
    every option that is wrong.
    """
    stated, known = command.options.model_dump(warnings=False), before.model_dump()
    for section, one, others in _EXCLUSIVE:
        given = stated[section][one] not in (None, known[section][one])
        for other in others:
            if given and stated[section][other] == known[section][other]:
                stated[section][other] = None
    return replace(command, options=recipe.build(stated, source="command line"))
