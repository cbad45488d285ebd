"""The options of `train` that are not the recipe's."""

import pytest

from captioncrafter.cli.verbs import duration_s
from captioncrafter.errors import InputError


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("55m", 3300), ("2h", 7200), ("1.5h", 5400)])
def test_a_length_of_time_has_a_unit(text: str, seconds: float):
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "55", "m", "-5m", "0s", "nan s", "infh", "5 days"])
def test_anything_else_is_no_length_of_time(text: str):
    with pytest.raises(InputError, match="is no length of time: write 90s, 55m or 2h"):
        duration_s(text)
