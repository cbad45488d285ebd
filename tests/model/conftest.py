"""Both kinds of language model, made once for all tests of the model."""

from collections.abc import Callable
from functools import cache

import pytest

from families import FAMILIES, Family


@pytest.fixture(scope="session")
def family_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """The family by its name, `t5` or `opt`."""

    @cache
    def made(name: str) -> Family:
        return Family.at(FAMILIES[name](tmp_path_factory.mktemp(name) / "checkpoint"))

    return made


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest, family_of: Callable[[str], Family]) -> Family:
    """Each family in turn."""
    return family_of(request.param)
