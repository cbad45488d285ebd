"""`captioncrafter` as a user gives it, in this process."""

from pathlib import Path

import pytest

from captioncrafter.cli import main


def status_of(*words: str | Path) -> int | str | None:
    """Runs the words after `captioncrafter`; gives the status with which the command ended."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code
